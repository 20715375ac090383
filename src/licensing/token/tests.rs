//! Tokens that are accepted, and those that are not, each with its reason.

use jsonwebtoken::EncodingKey;
use serde_json::{Value, json};

use super::*;
use crate::domain::license::{OnExpiry, State};
use crate::licensing::signer::Signer;

fn signer() -> Signer {
    let folder = tempfile::tempdir().unwrap();
    Signer::generate(&folder.path().join("key.pem")).unwrap()
}

fn claims() -> Value {
    json!({"sub": "L-1", "iat": 1_767_225_600, "serial": 7, "seats": 25})
}

fn license(claims: &Value) -> License {
    claims::parse(&serde_json::to_vec(claims).unwrap()).unwrap()
}

fn part(value: &Value) -> String {
    URL_SAFE_NO_PAD.encode(value.to_string())
}

#[track_caller]
fn check_refused(token: &str, trusted: &[PublicKey], expected: &str) {
    let error = verify(token, trusted).expect_err(token).to_string();
    assert!(error.contains(expected), "{error:?} has no {expected:?}");
}

/// RFC 8037 appendix A: the key of A.2, its thumbprint in A.3, the signature of A.4.
#[test]
fn the_example_of_the_rfc_is_verified() {
    let x = URL_SAFE_NO_PAD.decode("11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo").unwrap();
    let key = PublicKey(x.try_into().unwrap());
    assert_eq!(key_id(&key), "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k");
    let token = "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc.hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg\
                 3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg";
    let payload = open(token, std::slice::from_ref(&key)).unwrap();
    assert_eq!(payload, b"Example of Ed25519 signing");
    check_refused(token, &[key], "the licence is signed, but its claims are not those of a licence");
}

#[test]
fn wycheproof_agrees_with_the_verifier() {
    let text = std::fs::read("tests/data/wycheproof-ed25519.json").unwrap();
    let vectors: Value = serde_json::from_slice(&text).unwrap();
    let bytes = |value: &Value| -> Vec<u8> {
        let digits = value.as_str().unwrap().as_bytes();
        let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
        digits.chunks(2).map(byte).collect()
    };
    let mut checked = 0;
    for group in vectors["testGroups"].as_array().unwrap() {
        let der = bytes(&group["publicKeyDer"]);
        let spki = base64::engine::general_purpose::STANDARD.encode(&der);
        let key = PublicKey::parse(&spki).unwrap();
        for test in group["tests"].as_array().unwrap() {
            let is_valid = is_signed(&bytes(&test["msg"]), &bytes(&test["sig"]), &key);
            assert_eq!(is_valid, test["result"] == "valid", "{test}");
            checked += 1;
        }
    }
    assert_eq!(checked, vectors["numberOfTests"].as_u64().unwrap());
    assert!(checked > 100);
}

#[test]
fn what_was_signed_is_read_back() {
    let signer = signer();
    let full = json!({
        "iss": "Vendor", "sub": "L-1", "iat": 1_767_225_600, "nbf": 1_767_225_600, "exp": 1_798_761_600,
        "serial": 7, "seats": 25,
        "components": {"activesync": {"seats": 10, "expires": "2027-05-01"}, "antivirus": {}},
        "customer": {"name": "Example GmbH", "email": "it@example.org", "vat": "DE1"},
        "registered": "2026-01-01", "maintenance_until": "2027-01-01",
        "installation": "11111111-1111-4111-8111-111111111111", "grace": "14days",
        "on_expiry": "refuse_all", "overage_percent": 10,
    });
    let license = license(&full);
    assert_eq!((license.seats, license.seat_limit(), license.on_expiry), (25, 27, OnExpiry::RefuseAll));
    assert_eq!(license.customer.name.as_deref(), Some("Example GmbH"));
    assert_eq!(license.customer.more["vat"], "DE1");
    assert_eq!(license.grace.as_secs(), 14 * 86_400);
    let token = signer.sign(&license).unwrap();
    assert_eq!(verify(&token, &[signer.public_key().clone()]).unwrap(), license);
    assert_eq!(signer.sign(&license).unwrap(), token, "the same licence is the same token");
    let payload: Value =
        serde_json::from_slice(&open(&token, &[signer.public_key().clone()]).unwrap()).unwrap();
    assert_eq!(payload, full, "nothing is lost");
    assert_eq!(verify(&format!("\n{token}\n"), &[signer.public_key().clone()]).unwrap(), license);
}

#[test]
fn defaults_are_those_of_a_plain_licence() {
    let license = license(&claims());
    assert_eq!((license.expires, license.grace.as_secs(), license.on_expiry), (None, 0, OnExpiry::RefuseNew));
    assert_eq!(license.state(jiff::Timestamp::MAX), State::Active);
    assert!(license.components.is_empty() && license.installation.is_none());
}

#[test]
fn a_key_is_chosen_by_its_id_or_tried() {
    let (one, other, third) = (signer(), signer(), signer());
    let trusted = [one.public_key().clone(), other.public_key().clone()];
    let token = other.sign(&license(&claims())).unwrap();
    assert!(verify(&token, &trusted).is_ok());
    check_refused(&token, &trusted[..1], "which is not among the trusted keys");
    check_refused(&token, &[], "no key is trusted");

    // Without `kid`, each is tried.
    let anonymous = |signer: &Signer| {
        let token = signer.sign(&license(&claims())).unwrap();
        let payload = token.split('.').nth(1).unwrap().to_owned();
        let signed = format!("{}.{payload}", part(&json!({"alg": "EdDSA", "typ": "JWT"})));
        format!("{signed}.{}", sign_raw(signer, signed.as_bytes()))
    };
    assert!(verify(&anonymous(&other), &trusted).is_ok());
    check_refused(&anonymous(&third), &trusted, "signed with a key that is not trusted");

    // A `kid` of one key over the signature of another.
    let signed = token.rsplit_once('.').unwrap().0;
    let forged = format!("{signed}.{}", sign_raw(&third, signed.as_bytes()));
    check_refused(&forged, &trusted, "the signature is wrong");
}

fn sign_raw(signer: &Signer, message: &[u8]) -> String {
    crypto::sign(message, signer.encoding_key(), Algorithm::EdDSA).unwrap()
}

#[test]
fn forgeries_are_refused() {
    let signer = signer();
    let key = signer.public_key().clone();
    let trusted = std::slice::from_ref(&key);
    let token = signer.sign(&license(&claims())).unwrap();
    let (header, payload, signature) = {
        let mut parts = token.split('.').map(str::to_owned);
        (parts.next().unwrap(), parts.next().unwrap(), parts.next().unwrap())
    };
    // Another payload, header or signature.
    let mut more = claims();
    more["seats"] = 2500.into();
    check_refused(&format!("{header}.{}.{signature}", part(&more)), trusted, "the signature is wrong");
    let plain = part(&json!({"alg": "EdDSA"}));
    check_refused(&format!("{plain}.{payload}.{signature}"), trusted, "the signature is wrong");
    let other = signer.sign(&license(&more)).unwrap();
    let other = other.rsplit_once('.').unwrap().1;
    check_refused(&format!("{header}.{payload}.{other}"), trusted, "the signature is wrong");
    check_refused(&format!("{header}.{payload}."), trusted, "the signature is wrong");
    // Truncated anywhere.
    for length in 0..token.len() {
        assert!(verify(&token[..length], trusted).is_err(), "cut at {length}");
    }
    check_refused(&token[..header.len()], trusted, "it has no dots");
    check_refused(&token[..header.len() + payload.len() + 1], trusted, "it has two parts");
    check_refused(&format!("{token}.x"), trusted, "no base64url");
    check_refused(&format!("{token}="), trusted, "no base64url");
    // No signature at all, or one that anybody can make from the public key.
    for alg in ["none", "None", "NONE", ""] {
        let header = part(&json!({"alg": alg}));
        check_refused(&format!("{header}.{payload}."), trusted, "only EdDSA is accepted");
        check_refused(&format!("{header}.{payload}.{signature}"), trusted, "only EdDSA is accepted");
    }
    let signed = format!("{}.{payload}", part(&json!({"alg": "HS256"})));
    for secret in [key.0.to_vec(), key.to_spki().into_bytes()] {
        let secret = EncodingKey::from_secret(&secret);
        let mac = crypto::sign(signed.as_bytes(), &secret, Algorithm::HS256).unwrap();
        check_refused(&format!("{signed}.{mac}"), trusted, "is signed with \"HS256\"");
    }
    // A key in the header is not looked at.
    let attacker = Signer::generate(&tempfile::tempdir().unwrap().path().join("other.pem")).unwrap();
    let jwk = json!({"kty": "OKP", "crv": "Ed25519", "x": URL_SAFE_NO_PAD.encode(attacker.public_key().0)});
    let signed = format!("{}.{payload}", part(&json!({"alg": "EdDSA", "jwk": jwk})));
    check_refused(
        &format!("{signed}.{}", sign_raw(&attacker, signed.as_bytes())),
        trusted,
        "the signature is wrong",
    );
    let signed = format!("{}.{payload}", part(&json!({"alg": "EdDSA", "crit": ["b64"], "b64": false})));
    check_refused(&format!("{signed}.{}", sign_raw(&signer, signed.as_bytes())), trusted, "critical header");
    // Too long, and nonsense.
    check_refused(&"x".repeat(MAX_BYTES + 1), trusted, "longer than 16384 bytes");
    for nonsense in
        ["", ".", "..", "...", "ä.b.c", "e30.e30.e30", "{\"alg\":\"EdDSA\"}.{}.x", "bnVsbA.bnVsbA."]
    {
        check_refused(nonsense, trusted, "no signed licence");
    }
}

#[test]
fn signed_mistakes_of_the_vendor_are_told() {
    let check = |key: &str, value: Value, expected: &str| {
        let mut claims = claims();
        claims[key] = value;
        let error = claims::parse(&serde_json::to_vec(&claims).unwrap()).unwrap_err().to_string();
        assert!(error.contains(expected), "{error:?} has no {expected:?}");
    };
    check("sub", json!(""), "sub is empty");
    check("sub", json!("x".repeat(300)), "sub is longer");
    check("sub", json!("a\nb"), "control character");
    check("seats", json!(-1), "claims are not those of a licence");
    check("seats", json!("many"), "claims are not those of a licence");
    check("serial", Value::Null, "claims are not those of a licence");
    check("exp", json!(1e300), "exp is no time");
    check("nbf", json!("2026-01-01"), "claims are not those of a licence");
    check("registered", json!("yesterday"), "registered is no date: it is written like 2027-05-01");
    check("maintenance_until", json!("2027-02-30"), "maintenance_until is no date");
    check("installation", json!("x y"), "installation is no installation's id");
    check("grace", json!("a while"), "grace is no duration: it is written like 14d");
    check("grace", json!("99999999999999999999y"), "grace is no duration");
    check("on_expiry", json!("ignore"), "on_expiry is \"ignore\", not refuse_new or refuse_all");
    check("overage_percent", json!(1000), "overage_percent is 1000: at most 100");
    check("components", json!({"Anti Virus": {}}), "no component's name");
    check("components", json!({"av": {"expires": "soon"}}), "expires of av is no date");
    check("customer", json!({"name": "a\u{1b}[2J"}), "control character");
}

#[test]
fn a_key_file_is_private_and_never_replaced() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("key.pem");
    let made = Signer::generate(&path).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let loaded = Signer::load(&path).unwrap();
    assert_eq!(loaded.public_key(), made.public_key());
    assert_eq!(PublicKey::parse(&made.public_key().to_spki()).as_ref(), Some(made.public_key()));
    assert!(Signer::generate(&path).unwrap_err().to_string().contains("File exists"));
    let pem = std::fs::read_to_string(&path).unwrap();
    assert!(!format!("{made:?}").contains(&pem[40..60]));
    std::fs::write(&path, "no key").unwrap();
    assert!(Signer::load(&path).unwrap_err().to_string().contains("license keygen"));
}
