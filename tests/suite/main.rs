//! Tests against real servers, which `tests/run.sh` installs.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod accounts;
mod backpressure;
mod bind;
mod brake;
mod brake_sums;
mod changelog;
mod clock;
mod commands;
mod contentsync;
mod controller;
mod crash;
mod crowd;
mod crowd_servers;
mod directory;
mod dirsync;
mod dovecot;
mod dovecot_crowd;
mod dovecot_logins;
mod ds389;
mod exim;
mod failover;
mod full_disk;
mod group;
mod hostile;
mod hostile_sync;
mod identity;
mod import;
mod ldif;
mod license;
mod lifecycle;
mod lists;
mod mail;
mod moves;

mod notification;
mod outage;
mod own_passwords;
mod ownership;
mod passwords;
mod ports;
mod postfix;
mod progress;
mod raw;
mod reclaim;
mod reconcile;
mod reload;
mod samba;
mod seats;
mod srv;
mod support;
mod syncrepl;
mod syncrepl_outages;
mod usn;
mod wire;
