//! Records survive being written and read, and no bytes panic.

use super::*;
use proptest::prelude::*;

fn names() -> impl Strategy<Value = Vec<Name>> {
    proptest::collection::vec("[a-zü]{1,8}@example\\.org", 0..4)
        .prop_map(|texts| texts.iter().map(|text| Name::parse(text, None).unwrap()).collect())
}

fn time() -> impl Strategy<Value = Timestamp> {
    (-1_000_000_000_000i64..4_000_000_000_000).prop_map(|ms| Timestamp::from_millisecond(ms).unwrap())
}

fn user() -> impl Strategy<Value = User> {
    let kind = prop_oneof![
        Just(Kind::Person),
        Just(Kind::Group),
        Just(Kind::List),
        Just(Kind::Resource),
        Just(Kind::Contact)
    ];
    let id = proptest::collection::vec(any::<u8>(), 1..20).prop_map(|id| StableId::new(&id).unwrap());
    let flags = (any::<bool>(), any::<bool>());
    let mapped = (id, kind, flags, names(), names(), proptest::option::of(".{0,20}"), ".{0,20}").prop_map(
        |(id, kind, (enabled, seatless), logins, addresses, display_name, dn)| Mapped {
            id,
            kind,
            enabled,
            seatless,
            logins,
            addresses,
            display_name: display_name.map(Into::into),
            dn: dn.into(),
        },
    );
    let removed_at = proptest::option::of(time());
    let disabled_at = proptest::option::of(time());
    (any::<u32>(), mapped, time(), removed_at, disabled_at).prop_map(
        |(directory, mapped, since, removed_at, disabled_at)| User {
            directory: DirectoryId(directory),
            disabled_at: disabled_at.filter(|_| !mapped.enabled),
            mapped,
            since,
            removed_at,
        },
    )
}

proptest! {
    #[test]
    fn users_survive(user in user()) {
        let bytes = encode_user(&user);
        prop_assert_eq!(&decode_user(&bytes).unwrap(), &user);
        prop_assert_eq!(decode_user_head(&bytes).unwrap().removed_at, user.removed_at);
        let (head, id, main) = decode_user_identity(&bytes).unwrap();
        prop_assert_eq!((head.removed_at, &id), (user.removed_at, &user.mapped.id));
        prop_assert_eq!(main.as_ref(), user.mapped.addresses.first());
        for cut in 0..bytes.len() {
            prop_assert!(decode_user(&bytes[..cut]).is_err(), "cut at {}", cut);
        }
    }

    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64), versioned in any::<bool>()) {
        let bytes = if versioned { [&[VERSION], bytes.as_slice()].concat() } else { bytes };
        let _ = decode_user(&bytes);
        let _ = decode_seat(&bytes);
        let _ = decode_last_login(&bytes);
        let _ = decode_refusals(&bytes);
        let _ = decode_ledger_event(&bytes);
        let _ = decode_directory("demo", &bytes);
        let _ = decode_cookie(&bytes);
        let _ = decode_window(&bytes);
        let _ = decode_name(&bytes);
        let _ = decode_claim(&bytes);
    }
}

#[test]
fn small_records_survive() {
    let at = Timestamp::from_millisecond(1_700_000_000_123).unwrap();
    let imap = Service::parse("IMAP");
    for by in [
        TakenBy::Login(imap.clone()),
        TakenBy::Delivery(None),
        TakenBy::Administrator,
        TakenBy::Created,
        TakenBy::Enabled,
        TakenBy::Imported,
    ] {
        let seat = Seat { granted_at: at, by: by.clone() };
        assert_eq!(decode_seat(&encode_seat(&seat)).unwrap(), seat);
        let event = LedgerEvent {
            at,
            user: UserKey(7),
            name: Name::parse("a@b.c", None).unwrap(),
            what: Movement::Granted(by),
            used_after: 300,
        };
        assert_eq!(decode_ledger_event(&encode_ledger_event(&event)).unwrap(), event);
    }
    let event = LedgerEvent {
        at,
        user: UserKey(7),
        name: Name::parse("a@b.c", None).unwrap(),
        what: Movement::Moved { from: UserKey(300), name: Name::parse("old@b.c", None).unwrap() },
        used_after: 2,
    };
    assert_eq!(decode_ledger_event(&encode_ledger_event(&event)).unwrap(), event);
    let refusals = Refusals { first: at, last: at, count: u64::MAX, reason: "exhausted".into() };
    assert_eq!(decode_refusals(&encode_refusals(&refusals)).unwrap(), refusals);
    for proof in [None, Some(Proof { at, bytes: vec![1, 2] })] {
        let cookie = Cookie { valid_for: "syncrepl ou=people".to_owned(), bytes: vec![0, 255, 7], proof };
        assert_eq!(decode_cookie(&encode_cookie(&cookie)).unwrap(), cookie);
    }
    let claim = Claim { login: None, mail: Some(at) };
    assert_eq!(decode_claim(&encode_claim(claim)).unwrap(), claim);
    let user = UserKey(300);
    for owners in [
        Owners::default(),
        Owners { login: Some(user), mail: None },
        Owners { login: None, mail: Some(user) },
    ] {
        for record in [NameRecord::Sole { user, claim, owners }, NameRecord::Contested(owners)] {
            assert_eq!(decode_name(&encode_name(&record)).unwrap(), record);
        }
    }
    let login = LastLogin { at, service: imap };
    assert_eq!(decode_last_login(&encode_last_login(&login)).unwrap(), login);
}

#[test]
fn a_newer_record_is_told_from_a_damaged_one() {
    assert!(matches!(decode_seat(&[VERSION + 1, 0]), Err(StoreError::NewerFormat)));
    assert!(matches!(decode_seat(&[]), Err(StoreError::Corrupt("seats"))));
}
