#!/bin/bash
# Runs the tests: see --help.
#
# What it does to the machine, unless only the quick ones run: nothing, when the packages are there. Otherwise it says
# which it installs and installs them with apt-get (with sudo, when not root), without the recommended ones. Their
# services are neither started nor restarted meanwhile, and those of newly installed servers are disabled, since the
# tests start servers of their own, on loopback and in scratch directories, and end them. Those that boot a systemd, in
# namespaces of its own, take root.
#
# Exim can't be installed beside Postfix: its packages are unpacked below target/, what libraries they need is
# installed, and the system user Debian-exim is made, without whom Exim doesn't run, as its package does it.
set -euo pipefail

usage() {
    cat <<'END'
usage: tests/run.sh              all tests; installs the Debian packages that they need, and takes root for some
       tests/run.sh quick        those that need no server, no package and no root: less than 2 minutes
       tests/run.sh one NAME...  those whose names contain NAME, such as failover::a_cookie_does_not_travel
       tests/run.sh --help

Each builds first. At the end it prints how long the build and the tests took, and the ten slowest tests.

RUST_TEST_THREADS is the number of tests that run at the same time: by default two per processor, since many only
wait for a server.
END
}

packages=(
    slapd ldap-utils                         # the directory
    389-ds-base libnss3-tools openssl        # another directory, and what makes its certificate store
    samba samba-ad-provision ldb-tools       # a domain controller,
    samba-dsdb-modules samba-vfs-modules     # with what it loads,
    iproute2                                 # and the loopback of a network of its own
    dnsmasq-base                             # the DNS, which lists servers
    dovecot-imapd dovecot-pop3d dovecot-ldap # the mail server, which checks passwords at the directory,
    dovecot-lmtpd dovecot-submissiond        # takes mail and sends it,
    dovecot-auth-lua                         # and asks by a script
    postfix                                  # the other mail server
    sasl2-bin libsasl2-modules               # testsaslauthd, and the mechanisms of libsasl2
    nginx libnginx-mod-mail                  # the proxy before mail servers and web applications
    caddy                                    # another before web applications
    systemd                                  # judges the unit, and runs it
    util-linux mount                         # unshare, nsenter: systemd in namespaces of its own
    strace                                   # holds up a write, as a disk that hangs
    curl jq                                  # what an administrator has at hand
    python3-jwt python3-cryptography         # another maker of licences
    procps                                   # kill, pkill, ps
    faketime                                 # moves the clock of a daemon
    bsdutils                                 # script: a terminal
    wrk                                      # load, for the benches
)
# Package and service, for what would be started at the next boot.
servers=(slapd:slapd dovecot-core:dovecot postfix:postfix sasl2-bin:saslauthd nginx:nginx caddy:caddy samba:samba-ad-dc samba:smbd samba:nmbd)

# The mail server that is unpacked, with Debian's settings for it. The light one can't ask by Dovecot's protocol.
exim_packages=(exim4-daemon-heavy exim4-config)
exim=target/exim

say() { printf 'tests/run.sh: %s\n' "$*" >&2; }

is_installed() { [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]; }

as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    else
        sudo "$@"
    fi
}

policy=/usr/sbin/policy-rc.d

# invoke-rc.d(8) asks this file whether it may start a service; 101 is no.
forbid_services() {
    if [ -e "$policy" ]; then
        say "leaving your $policy as it is: it decides whether new services are started"
        return
    fi
    say "forbidding packages to start or restart services, by $policy, while they are installed"
    trap 'as_root rm -f "$policy"' EXIT
    printf '#!/bin/sh\n# Made by tests/run.sh of Seatkeeper for the time of an installation.\nexit 101\n' |
        as_root tee "$policy" >/dev/null
    as_root chmod 755 "$policy"
}

allow_services() {
    if [ -n "$(trap -p EXIT)" ]; then
        trap - EXIT
        as_root rm -f "$policy"
    fi
}

exim_runs() { "$exim/usr/sbin/exim4" -C /dev/null -bV >/dev/null 2>&1; }

# Leaves the libraries to install_missing.
unpack_exim() {
    if exim_runs; then
        return
    fi
    say "unpacking ${exim_packages[*]} into $exim"
    local folder deb libraries
    folder=$(mktemp -d)
    as_root apt-get update -qq
    (cd "$folder" && apt-get download -qq -o APT::Sandbox::User=root "${exim_packages[@]}")
    rm -rf "$exim"
    mkdir -p "$exim"
    for deb in "$folder"/*.deb; do
        dpkg-deb -x "$deb" "$exim"
        mapfile -t libraries < <(dpkg-deb -f "$deb" Depends | grep -o '\blib[a-z0-9.+-]*')
        packages+=("${libraries[@]}")
    done
    rm -rf "$folder"
    if ! getent passwd Debian-exim >/dev/null; then
        say "making the system user Debian-exim"
        as_root useradd --system --user-group --home-dir /var/spool/exim4 --no-create-home \
            --shell /usr/sbin/nologin Debian-exim
    fi
}

install_missing() {
    local missing=() new_servers=() package server
    for package in "${packages[@]}"; do
        is_installed "$package" || missing+=("$package")
    done
    if [ ${#missing[@]} = 0 ]; then
        return
    fi
    for server in "${servers[@]}"; do
        is_installed "${server%%:*}" || new_servers+=("${server##*:}")
    done
    say "installing ${missing[*]}"
    forbid_services
    as_root apt-get update -qq
    as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -qq --no-install-recommends "${missing[@]}" >&2
    allow_services
    for server in "${new_servers[@]}"; do
        say "disabling the service $server, which would be started at the next boot"
        as_root systemctl --quiet disable "$server" >&2 || say "could not disable $server"
    done
}

install() {
    # Servers are in the system's directories, which are not in everybody's PATH.
    PATH=$PATH:/usr/sbin:/sbin
    if command -v apt-get >/dev/null && command -v dpkg-query >/dev/null; then
        unpack_exim
        install_missing
    else
        say "this is no Debian; have the programs of these packages installed: ${packages[*]}"
        say "and the files of these below $exim: ${exim_packages[*]}"
    fi
}

build() {
    local start=$SECONDS
    cargo test --locked --no-run "$@"
    built=$((built + SECONDS - start))
}

# Runs `cargo test` with these arguments, the last of which are the harness's. Only the harness measures each test. The
# option is an unstable one, which the variable unlocks when the tests run; nothing is compiled with it.
run() {
    local start=$SECONDS
    cargo test --locked --no-fail-fast --config "target.'cfg(all())'.runner = ['env', 'RUSTC_BOOTSTRAP=1']" \
        "$@" -Zunstable-options --report-time | tee -a "$log" || failed=1
    ran=$((ran + SECONDS - start))
}

report() {
    local count
    count=$(grep -c '^test .* <[0-9.]*s>$' "$log") || {
        say "no test has such a name"
        exit 1
    }
    say "$count tests took $ran s, after $built s for the build; the slowest:"
    sed -nE 's/^test (.*) \.\.\. .*<([0-9.]+)s>$/\2 s  \1/p' "$log" | sort -rn | sed 10q >&2
    exit "$failed"
}

cd "$(dirname "$0")/.."
export RUST_TEST_THREADS=${RUST_TEST_THREADS:-$((2 * $(nproc)))}
mkdir -p target
log=target/tests.log
: >"$log"
built=0 ran=0 failed=0
targets=(--lib --bins --tests)
case ${1-} in
"")
    install
    build "${targets[@]}"
    run "${targets[@]}" --
    ;;
quick)
    mapfile -t modules <tests/suite/quick
    build --lib --bins --test tidy --test suite
    run --lib --bins --test tidy --
    run --test suite -- "${modules[@]/%/::}"
    ;;
one)
    [ $# -gt 1 ] || {
        usage >&2
        exit 2
    }
    install
    build "${targets[@]}"
    run "${targets[@]}" -- "${@:2}"
    ;;
-h | --help)
    usage
    exit
    ;;
*)
    usage >&2
    exit 2
    ;;
esac
report
