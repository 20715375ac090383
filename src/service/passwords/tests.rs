use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::*;
use crate::admin::fixture::Fixture;
use crate::service::throttle::SHUT_FOR;

/// A directory where everybody's password is `right`.
#[derive(Default)]
pub(crate) struct FakeDirectory {
    binds: AtomicUsize,
    at_once: AtomicUsize,
    most_at_once: AtomicUsize,
    pub(crate) down: AtomicBool,
    hangs: AtomicBool,
}

impl Verify for FakeDirectory {
    fn verify<'a>(
        &'a self,
        directory: &'a str,
        dn: Option<&'a str>,
        password: &'a Arc<Password>,
    ) -> Pin<Box<dyn Future<Output = Result<bool, String>> + Send + 'a>> {
        Box::pin(async move {
            assert_eq!(directory, "corp");
            self.binds.fetch_add(1, Ordering::SeqCst);
            let at_once = self.at_once.fetch_add(1, Ordering::SeqCst) + 1;
            self.most_at_once.fetch_max(at_once, Ordering::SeqCst);
            if self.hangs.load(Ordering::SeqCst) {
                std::future::pending::<()>().await;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
            self.at_once.fetch_sub(1, Ordering::SeqCst);
            if self.down.load(Ordering::SeqCst) {
                return Err("corp is down".to_owned());
            }
            Ok(dn.is_some() && password.expose() == "right")
        })
    }
}

struct Site {
    fixture: Fixture,
    directory: Arc<FakeDirectory>,
    authenticator: Authenticator,
}

async fn site() -> Site {
    let fixture = Fixture::new(5).await;
    let directory = Arc::new(FakeDirectory::default());
    let authenticator = Authenticator::new(fixture.service.admission(), directory.clone());
    Site { fixture, directory, authenticator }
}

impl Site {
    async fn try_from(&self, client: Option<IpAddr>, user: &str, password: &str) -> Result<Login, AuthError> {
        let password = Password::parse(password.as_bytes()).map(Arc::new);
        self.authenticator.log_in(&Attempt { user, password, service: Some("imap"), client }).await
    }

    async fn try_log_in(&self, user: &str, password: &str) -> Result<Login, AuthError> {
        self.try_from(None, user, password).await
    }

    async fn log_in(&self, user: &str, password: &str) -> String {
        self.try_log_in(user, password).await.unwrap().verdict(user).decision
    }

    async fn log_in_from(&self, client: &str, user: &str, password: &str) -> String {
        self.try_from(client.parse().ok(), user, password).await.unwrap().verdict(user).decision
    }

    fn binds(&self) -> usize {
        self.directory.binds.load(Ordering::SeqCst)
    }
}

#[tokio::test]
async fn only_a_right_password_leads_to_a_decision() {
    let site = site().await;
    for (user, password, expected) in [
        ("u1", "wrong", "wrong_password"),
        ("nobody", "right", "wrong_password"),
        ("all", "right", "wrong_password"),
        ("nobody@example.com", "right", "wrong_password"),
        ("u1\r\n", "right", "wrong_password"),
        ("u1", "right", "granted"),
        ("U1@Example.org", "right", "held"),
        ("u2", "right", "granted"),
        ("u4", "wrong", "wrong_password"),
        ("u4", "right", "exhausted"),
        ("u3", "wrong", "wrong_password"),
        ("u3", "right", "disabled"),
    ] {
        assert_eq!(site.log_in(user, password).await, expected, "{user} {password}");
    }
    assert_eq!(site.fixture.service.admin().status().await.unwrap().seats.used, 2);
}

#[tokio::test]
async fn an_empty_password_never_reaches_a_directory() {
    let site = site().await;
    for password in ["", "\0", "right\0"] {
        assert_eq!(site.log_in("u1", password).await, "wrong_password");
    }
    assert_eq!(site.binds(), 0);
    // Somebody unknown is looked for like anybody else.
    assert_eq!(site.log_in("nobody", "x").await, "wrong_password");
    assert_eq!(site.binds(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_directory_that_is_down_or_hangs_is_no_refusal() {
    let site = site().await;
    site.directory.down.store(true, Ordering::SeqCst);
    for user in ["u1", "nobody"] {
        let error = site.try_log_in(user, "right").await.unwrap_err().to_string();
        assert_eq!(error, "a password cannot be verified: corp is down");
    }
    site.directory.hangs.store(true, Ordering::SeqCst);
    let error = site.try_log_in("u1", "right").await.unwrap_err();
    assert!(matches!(&error, AuthError::Deadline(directory) if directory == "corp"), "{error}");
    site.directory.hangs.store(false, Ordering::SeqCst);
    site.directory.down.store(false, Ordering::SeqCst);
    assert_eq!(site.log_in("u1", "right").await, "granted");
    assert!(site.authenticator.0.turns.lock().is_empty());
}

#[tokio::test]
async fn a_user_is_verified_once_at_a_time_and_others_meanwhile() {
    let site = Arc::new(site().await);
    let most = |user: fn(usize) -> String| {
        let site = site.clone();
        async move {
            site.directory.most_at_once.store(0, Ordering::SeqCst);
            let tasks: Vec<_> = (0..4)
                .map(|number| {
                    let site = site.clone();
                    tokio::spawn(async move { site.log_in(&user(number), "right").await })
                })
                .collect();
            for task in tasks {
                task.await.unwrap();
            }
            site.directory.most_at_once.load(Ordering::SeqCst)
        }
    };
    assert_eq!(most(|_| "u1".to_owned()).await, 1);
    assert_eq!(most(|number| format!("u{}", number + 1)).await, 4);
    assert!(site.authenticator.0.turns.lock().is_empty());
}

#[tokio::test(start_paused = true)]
async fn failures_are_slowed_and_then_refused_for_whatever_password() {
    let site = site().await;
    for _ in 0..10 {
        assert_eq!(site.log_in("u1", "wrong").await, "wrong_password");
    }
    assert_eq!(site.binds(), 10);
    for password in ["wrong", "right"] {
        assert_eq!(site.log_in("u1", password).await, "throttled");
    }
    // Many at once gain nothing by it, and neither does an unknown name look different.
    for _ in 0..10 {
        assert_eq!(site.log_in("nobody", "wrong").await, "wrong_password");
    }
    assert_eq!(site.log_in("nobody", "wrong").await, "throttled");
    assert_eq!(site.binds(), 20);
    assert_eq!(site.log_in("u2", "right").await, "granted");
    assert!(SHUT_FOR > Duration::from_secs(30));
}

#[tokio::test(start_paused = true)]
async fn who_guesses_from_elsewhere_locks_nobody_out() {
    let site = site().await;
    for user in ["u1", "nobody"] {
        for _ in 0..10 {
            assert_eq!(site.log_in_from("198.51.100.1", user, "wrong").await, "wrong_password");
        }
        assert_eq!(site.log_in_from("198.51.100.1", user, "right").await, "throttled");
    }
    assert_eq!(site.log_in_from("192.0.2.7", "u1", "right").await, "granted");
    assert_eq!(site.log_in_from("192.0.2.7", "nobody", "right").await, "wrong_password");
    // From many addresses: the person still gets in from where they have before, and nobody from anywhere else.
    for number in 0..91 {
        site.log_in_from(&format!("203.0.113.{number}"), "u1", "wrong").await;
    }
    assert_eq!(site.log_in_from("192.0.2.8", "u1", "right").await, "throttled");
    assert_eq!(site.log_in_from("192.0.2.7", "u1", "right").await, "held");
}

#[tokio::test]
async fn many_tries_at_once_gain_nothing() {
    let site = Arc::new(site().await);
    let admin = site.fixture.service.admin();
    admin.add_account("local@example.net", None, &[]).await.unwrap();
    admin.set_account_password("local@example.net", b"right").await.unwrap();
    // At a directory and here.
    for user in ["u1", "local@example.net"] {
        let tries: Vec<_> = (0..15)
            .map(|_| {
                let site = site.clone();
                tokio::spawn(async move { site.log_in(user, "wrong").await })
            })
            .collect();
        let mut tried = 0;
        for attempt in tries {
            match attempt.await.unwrap().as_str() {
                "wrong_password" => tried += 1,
                other => assert_eq!(other, "throttled", "{user}"),
            }
        }
        assert_eq!(tried, 10, "{user}");
    }
}

#[tokio::test]
async fn the_cache_keeps_right_passwords_for_its_time_and_no_wrong_ones() {
    let site = site().await;
    assert_eq!(site.log_in("u1", "right").await, "granted");
    assert_eq!(site.log_in("u1", "right").await, "held");
    assert_eq!(site.binds(), 2, "it is off at first");

    site.authenticator.set_cache(Duration::from_secs(60));
    assert_eq!(site.log_in("u1", "right").await, "held");
    assert_eq!(site.log_in("u1", "right").await, "held");
    assert_eq!(site.binds(), 3);
    for _ in 0..2 {
        assert_eq!(site.log_in("u1", "wrong").await, "wrong_password");
    }
    assert_eq!(site.binds(), 5);
    assert_eq!(site.log_in("u2", "right").await, "granted");
    assert_eq!(site.binds(), 6);
    // While the directory is down, who was there a moment ago still gets in.
    site.directory.down.store(true, Ordering::SeqCst);
    assert_eq!(site.log_in("u1", "right").await, "held");
    assert!(site.try_log_in("u4", "right").await.is_err());

    site.authenticator.set_cache(Duration::from_millis(1));
    site.directory.down.store(false, Ordering::SeqCst);
    assert_eq!(site.log_in("u1", "right").await, "held");
    tokio::time::sleep(Duration::from_millis(5)).await;
    let before = site.binds();
    assert_eq!(site.log_in("u1", "right").await, "held");
    assert_eq!(site.binds(), before + 1);
}
