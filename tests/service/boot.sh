#!/bin/bash
# Boots a real systemd for tests/service.rs: PID 1 of namespaces of its own, on an overlay of the machine's root.
#
#   unshare --mount --propagation private bash boot.sh FOLDER BINARY
#
# FOLDER/units holds all the units that there are, FOLDER/etc becomes /etc/seatkeeper, FOLDER/console gets what
# systemd says before the journal runs. Prints "pid N": the new PID 1, as the caller sees it. Ends when standard
# input does, and everything with it; so no process, mount or cgroup is left over when the caller is killed.
#
# What systemd could change of the machine is out of its reach: files are written to a tmpfs, /sys and /proc/sys
# are read-only, /dev has harmless devices, the network is a loopback of its own, and the machine's units and
# generators are not looked at.
set -euo pipefail

fail() {
    echo "boot.sh: $*" >&2
    exit 1
}

# In a mount namespace: gives systemd a cgroup, so that the slices of two don't meet, starts it, and ends it.
outer() {
    local cgroup inner status=0
    mkdir -p "$folder/cgroup"
    mount -t cgroup2 cgroup2 "$folder/cgroup" || fail "cannot mount a cgroup2 file system"
    cgroup=$(sed -n 's/^0:://p' /proc/self/cgroup)
    cgroup=$folder/cgroup${cgroup%/}/seatkeeper-test-$$
    mkdir "$cgroup" || fail "cannot make a cgroup"
    (
        echo "$BASHPID" >"$cgroup/cgroup.procs" || fail "cannot enter a cgroup"
        exec setpriv --pdeathsig KILL \
            unshare --pid --mount --uts --ipc --net --cgroup --fork --kill-child \
            bash "$0" "$folder" "$binary" inner </dev/null
    ) &
    inner=$!
    if is_closed_before_end_of "$inner"; then
        # systemd itself, so that unshare sees its end; it comes when all its processes are gone.
        pkill -KILL --parent "$inner" || kill -KILL "$inner" || true
        wait "$inner" 2>/dev/null || true
        remove "$cgroup"
    else
        wait "$inner" || status=$?
        remove "$cgroup"
        fail "systemd could not be started, or ended (status $status)"
    fi
}

# Whether standard input ends while the process still runs; waits for either.
is_closed_before_end_of() {
    while kill -0 "$1" 2>/dev/null; do
        # More than 128 is the time that ran out.
        if read -r -t 0.2 || [ $? -le 128 ]; then
            return 0
        fi
    done
    return 1
}

# Processes leave their cgroups only when the kernel is through with them.
remove() {
    local tries
    for tries in {1..200}; do
        find "$1" -depth -type d -exec rmdir {} + 2>/dev/null || true
        [ -d "$1" ] || return 0
        sleep 0.05
    done
    fail "the cgroup ${1##*/} is still in use after $tries tries"
}

# In all namespaces: builds the root, and becomes systemd.
inner() {
    local pid root=$folder/overlay/root path
    # /proc is still the caller's, and so is the number.
    read -r pid _ </proc/self/stat
    mkdir "$folder/overlay"
    mount -t tmpfs -o mode=755 tmpfs "$folder/overlay" || fail "cannot mount a tmpfs"
    mkdir "$folder"/overlay/{upper,work,root}
    mount -t overlay overlay "$root" \
        -o "lowerdir=/,upperdir=$folder/overlay/upper,workdir=$folder/overlay/work" ||
        fail "cannot mount an overlay on the root directory"

    for path in dev run tmp var/lib var/log var/tmp; do
        mkdir -p "$root/$path"
        mount -t tmpfs -o mode=755 tmpfs "$root/$path"
    done
    chmod 1777 "$root/tmp" "$root/var/tmp"
    for path in null zero full random urandom tty; do
        touch "$root/dev/$path"
        mount --bind "/dev/$path" "$root/dev/$path"
    done
    # PrivateDevices= hands these on.
    mkdir "$root"/dev/{pts,shm,mqueue,hugepages}
    mount -t devpts -o newinstance,ptmxmode=0666 devpts "$root/dev/pts"
    mount -t tmpfs -o mode=1777 tmpfs "$root/dev/shm"
    ln -s pts/ptmx "$root/dev/ptmx"
    mount -t proc proc "$root/proc"
    mount --bind "$root/proc/sys" "$root/proc/sys"
    mount -o remount,bind,ro "$root/proc/sys"
    mount -t sysfs -o ro sysfs "$root/sys"
    mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"

    touch "$root/usr/bin/seatkeeper"
    mount --bind "$binary" "$root/usr/bin/seatkeeper"
    mkdir -p "$root/etc/seatkeeper" "$root/run/units" "$root/run/generators" "$root/.old"
    mount --bind "$folder/etc" "$root/etc/seatkeeper"
    mount --bind "$folder/units" "$root/run/units"
    printf '[Journal]\nStorage=volatile\nReadKMsg=no\nAudit=no\n' >"$root/etc/systemd/journald.conf"

    echo "pid $pid"
    exec >"$folder/console" 2>&1
    cd "$root"
    # Not chroot: PrivateUsers= and credentials need a root that is a mount point.
    pivot_root . .old
    umount -l /.old
    mount --make-rshared /
    exec env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin container=seatkeeper-test SYSTEMD_UNIT_PATH=/run/units \
        SYSTEMD_GENERATOR_PATH=/run/generators \
        /lib/systemd/systemd --system --unit=multi-user.target --log-target=journal
}

folder=$1 binary=$2
"${3:-outer}"
