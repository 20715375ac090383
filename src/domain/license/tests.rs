//! Tables for every state and claim.

use super::*;

fn at(text: &str) -> Timestamp {
    let text = if text.contains('T') { text.to_owned() } else { format!("{text}T00:00:00Z") };
    text.parse().unwrap()
}

const OURS: &str = "11111111-1111-4111-8111-111111111111";

fn ours() -> InstallationId {
    InstallationId::parse(OURS).unwrap()
}

fn name(text: &str) -> ComponentName {
    ComponentName::parse(text).unwrap()
}

fn license() -> License {
    License {
        id: "L-1".to_owned(),
        issuer: None,
        serial: 5,
        issued_at: at("2026-01-01"),
        not_before: None,
        expires: Some(at("2027-01-01")),
        seats: 25,
        seatless: 0,
        overage_percent: 0,
        components: BTreeMap::new(),
        customer: Customer::default(),
        registered: None,
        maintenance_until: None,
        installation: None,
        grace: Duration::from_secs(14 * 86_400),
        on_expiry: OnExpiry::RefuseNew,
    }
}

#[test]
fn a_licence_goes_through_its_states() {
    let check = |license: &License, now: &str, expected: State, next: Option<&str>| {
        let now = at(now);
        assert_eq!((license.state(now), license.next_change(now)), (expected, next.map(at)), "{now}");
    };
    let yearly = license();
    check(&yearly, "2026-01-01", State::Active, Some("2026-12-02"));
    check(&yearly, "2026-12-01T23:59:59Z", State::Active, Some("2026-12-02"));
    check(&yearly, "2026-12-02", State::Expiring, Some("2027-01-01"));
    check(&yearly, "2026-12-31T23:59:59Z", State::Expiring, Some("2027-01-01"));
    check(&yearly, "2027-01-01", State::Grace, Some("2027-01-15"));
    check(&yearly, "2027-01-14T23:59:59Z", State::Grace, Some("2027-01-15"));
    check(&yearly, "2027-01-15", State::Expired, None);
    let strict = License { grace: Duration::ZERO, ..license() };
    check(&strict, "2026-12-31T23:59:59Z", State::Expiring, Some("2027-01-01"));
    check(&strict, "2027-01-01", State::Expired, None);
    let forever = License { expires: None, ..license() };
    check(&forever, "2999-01-01", State::Active, None);
    let endless = License { grace: Duration::MAX, ..license() };
    check(&endless, "2999-01-01", State::Grace, Some("9999-12-30T22:00:00.999999999Z"));
}

#[test]
fn state_words_are_read_back() {
    for state in [State::Missing, State::Active, State::Expiring, State::Grace, State::Expired] {
        assert_eq!(State::parse(state.as_str()), Some(state));
    }
    assert_eq!(State::parse("well"), None);
}

#[test]
fn what_may_not_be_installed_says_why() {
    let now = at("2026-06-01");
    let check = |license: License, newest: Option<u64>, expected: &str| {
        let refused = license.check(now, now, &ours(), newest).err();
        assert_eq!(refused.map(|refusal| refusal.to_string()).unwrap_or_default(), expected);
    };
    check(license(), None, "");
    check(license(), Some(5), "");
    check(license(), Some(4), "");
    check(
        license(),
        Some(6),
        "the licence is older than the one that is installed: its serial is 5, after 6; an administrator may \
         force it",
    );
    check(License { installation: Some(ours()), ..license() }, None, "");
    check(
        License { installation: InstallationId::parse("another"), ..license() },
        None,
        &format!("the licence is for the installation another, and this is {OURS}"),
    );
    let clock = "is this machine's clock right?";
    check(License { not_before: Some(at("2026-06-01T00:05:00Z")), ..license() }, None, "");
    check(
        License { not_before: Some(at("2026-06-02")), ..license() },
        None,
        &format!("the licence is not valid before 2026-06-02T00:00:00Z; {clock}"),
    );
    check(
        License { issued_at: at("2026-06-01T00:05:01Z"), ..license() },
        None,
        &format!("the licence was issued in the future, at 2026-06-01T00:05:01Z; {clock}"),
    );
    check(License { expires: Some(at("2026-02-01")), ..license() }, None, "");
    // While the clock is in doubt, one may have been signed until the latest time that it can be, but takes effect on
    // its day by the time that counts.
    let new = License { issued_at: at("2026-07-01"), ..license() };
    assert_eq!(new.check(now, at("2026-07-01"), &ours(), None), Ok(()));
    let later = License { not_before: Some(at("2026-06-20")), ..new };
    let refused = later.check(now, at("2026-07-01"), &ours(), None);
    assert_eq!(refused, Err(Refusal::NotYetValid(at("2026-06-20"))));
}

#[test]
fn overage_is_rounded_down() {
    let check = |seats, overage_percent, expected| {
        assert_eq!(License { seats, overage_percent, ..license() }.seat_limit(), expected);
    };
    check(25, 0, 25);
    check(25, 10, 27);
    check(9, 10, 9);
    check(10, 10, 11);
    check(0, 100, 0);
    check(u64::MAX, 100, u64::MAX);
}

#[test]
fn components_have_seats_and_dates_of_their_own() {
    let activesync = Component { seats: Some(10), expires: "2026-05-01".parse().ok() };
    let components = [(name("activesync"), activesync), (name("antivirus"), Component::default())].into();
    let license = License { components, expires: None, ..license() };
    let check = |component: &str, now: &str, expected: ComponentStanding| {
        assert_eq!(license.component(&name(component), at(now)), expected, "{component} {now}");
    };
    let licensed = |seats| ComponentStanding::Licensed { seats };
    check("activesync", "2026-05-01", licensed(Some(10)));
    check("activesync", "2026-05-01T23:59:59Z", licensed(Some(10)));
    check("activesync", "2026-05-02", ComponentStanding::Unlicensed);
    check("antivirus", "2999-01-01", licensed(None));
    check("antispam", "2026-01-01", ComponentStanding::Unlicensed);
    assert_eq!(license.next_change(at("2026-01-01")), Some(at("2026-05-02")));
    assert_eq!(license.next_change(at("2026-05-02")), None);
    let standings = license.standings(at("2026-05-02"));
    assert_eq!(standings[&name("activesync")], ComponentStanding::Unlicensed);

    let eas = Service::parse("eas").unwrap();
    let services = [(eas.clone(), name("activesync"))].into();
    let components = Components { services, standings: license.standings(at("2026-01-01")) };
    assert_eq!(components.needed_by(Some(&eas)), Some((&name("activesync"), licensed(Some(10)))));
    assert_eq!(components.needed_by(Service::parse("imap").as_ref()), None);
    assert_eq!(components.needed_by(None), None);
    assert_eq!(components.standing(&name("backup")), ComponentStanding::Unlicensed);
}

#[test]
fn names_and_ids_are_checked() {
    for good in ["activesync", "anti-spam", "a_1"] {
        assert!(ComponentName::parse(good).is_some(), "{good}");
    }
    for bad in ["", "Anti", "a b", "ü", &"x".repeat(65)] {
        assert!(ComponentName::parse(bad).is_none(), "{bad}");
        assert!(bad == "Anti" || InstallationId::parse(bad).is_none(), "{bad}");
    }
    let random = InstallationId::from_random([0xff; 16]);
    assert_eq!(random.as_str(), "ffffffff-ffff-4fff-bfff-ffffffffffff");
    assert_eq!(InstallationId::from_random([0; 16]).as_str(), "00000000-0000-4000-8000-000000000000");
    assert_eq!(InstallationId::parse(random.as_str()), Some(random));
}

#[test]
fn keys_are_ed25519_in_spki_form() {
    // RFC 8410 section 10.1.
    let text = "MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=";
    let key = PublicKey::parse(text).unwrap();
    assert_eq!((key.0[0], key.to_spki().as_str()), (0x19, text));
    assert!(PublicKey::parse(&format!(" {text}\n")).is_some());
    // X25519, a raw key, half a key, no base64.
    let x25519 = text.replace("K2Vw", "K2Vu");
    for bad in [x25519.as_str(), "Gb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=", "MCowBQYDK2VwAyEA", "", "?"]
    {
        assert!(PublicKey::parse(bad).is_none(), "{bad}");
    }
}
