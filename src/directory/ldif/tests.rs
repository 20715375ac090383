use proptest::prelude::*;

use super::*;

type Shown = (String, Vec<(String, Vec<Vec<u8>>)>);

fn read(input: &[u8]) -> Result<Vec<Entry>, LdifError> {
    // A small buffer puts its edge into every kind of line.
    let mut reader = Reader::new(io::BufReader::with_capacity(3, input));
    let mut entries = Vec::new();
    while let Some(entry) = reader.entry()? {
        entries.push(entry);
    }
    Ok(entries)
}

type Attributes<'a> = &'a [(&'a str, &'a [&'a [u8]])];

fn check(input: &[u8], expected: &[(&str, Attributes)]) {
    let shown: Vec<Shown> = read(input)
        .unwrap_or_else(|error| panic!("{:?}: {error}", String::from_utf8_lossy(input)))
        .into_iter()
        .map(|entry| (entry.dn, entry.attributes.into_iter().map(|a| (a.name, a.values)).collect()))
        .collect();
    let expected: Vec<Shown> = expected
        .iter()
        .map(|(dn, attributes)| {
            let attributes = attributes
                .iter()
                .map(|(name, values)| ((*name).to_owned(), values.iter().map(|v| v.to_vec()).collect()));
            ((*dn).to_owned(), attributes.collect())
        })
        .collect();
    assert_eq!(shown, expected, "{:?}", String::from_utf8_lossy(input));
}

fn check_error(input: &[u8], line: u64, mistake: Mistake) {
    match read(input) {
        Err(LdifError::Mistake { line: found, mistake: what }) => {
            assert_eq!((found, what), (line, mistake), "{:?}", String::from_utf8_lossy(input));
        }
        other => panic!("{:?}: {other:?}", String::from_utf8_lossy(input)),
    }
}

#[test]
fn entries_are_read() {
    check(b"", &[]);
    check(b"\n\n", &[]);
    check(b"version: 1\n", &[]);
    check(b"# nothing\n", &[]);
    check(b"dn: cn=a", &[("cn=a", &[])]);
    check(b"version: 1\ndn: cn=a\ncn: a\n", &[("cn=a", &[("cn", &[b"a"])])]);
    check(
        b"version: 1\n\n\ndn:cn=a\ncn:a\n\n\n\ndn: cn=b\n\n",
        &[("cn=a", &[("cn", &[b"a"])]), ("cn=b", &[])],
    );
    check(
        b"DN: cn=a\r\ncn: a\r\n\r\ndn: cn=b\r\nsn: b",
        &[("cn=a", &[("cn", &[b"a"])]), ("cn=b", &[("sn", &[b"b"])])],
    );
    check(b"\xef\xbb\xbfversion: 1\ndn: cn=a\n", &[("cn=a", &[])]);
    check(b"\xef\xbb\xbfdn: cn=a\n", &[("cn=a", &[])]);
}

#[test]
fn values_are_read() {
    check(b"dn: a\ncn:\nsn: \ncn:   x \n", &[("a", &[("cn", &[b"", b"x "]), ("sn", &[b""])])]);
    check(
        b"dn: a\nmail: x\nMAIL: y\nmail;x-work: z\n",
        &[("a", &[("mail", &[b"x", b"y"]), ("mail;x-work", &[b"z"])])],
    );
    check(
        b"dn: a\nu: http://x:1/\n2.5.4.3: y\n",
        &[("a", &[("u", &[b"http://x:1/"]), ("2.5.4.3", &[b"y"])])],
    );
    check(
        "dn: cn=J\u{f6}rg\ncn: J\u{f6}rg\n".as_bytes(),
        &[("cn=J\u{f6}rg", &[("cn", &["J\u{f6}rg".as_bytes()])])],
    );
    check(b"dn:: Y249YQ==\ncn:: /wA=  \nsn::\n", &[("cn=a", &[("cn", &[b"\xff\0"]), ("sn", &[b""])])]);
    check(b"dn: a\njpegPhoto:< file:///etc/passwd\ncn: x\n", &[("a", &[("cn", &[b"x"])])]);
    check(b"dn: a\ncontrolled: x\n", &[("a", &[("controlled", &[b"x"])])]);
    check(b"dn: a\ncn: x\ncontrol: x\n", &[("a", &[("cn", &[b"x"]), ("control", &[b"x"])])]);
}

#[test]
fn lines_are_unfolded() {
    check(b"dn: cn=a,\n dc=x\ncn: a\n  b\r\n c\n", &[("cn=a,dc=x", &[("cn", &[b"a bc"])])]);
    check(b"d\n n\n : a\nc\n n:\n : YQ\n ==\n", &[("a", &[("cn", &[b"a"])])]);
    check(b"# a\n comment: x\ndn: a\n#cn: b\n# c\ncn: d\n", &[("a", &[("cn", &[b"d"])])]);
    check(b"dn: a\n \n b\n", &[("ab", &[])]);
}

#[test]
fn every_mistake_has_its_line() {
    check_error(b" dn: a\n", 1, Mistake::LooseContinuation);
    check_error(b"dn: a\ncn: x\n\n y\n", 4, Mistake::LooseContinuation);
    check_error(b"version: 2\ndn: a\n", 1, Mistake::Version);
    check_error(b"version:: MQ==\n", 1, Mistake::Version);
    check_error(b"dn: a\n\nversion: 1\n", 3, Mistake::MissingDn);
    check_error(b"version: 1\nversion: 1\n", 2, Mistake::MissingDn);
    check_error(b"# x\n y\ncn: a\n", 3, Mistake::MissingDn);
    check_error(b"dn: a\n\n# done\nsearch: 2\nresult: 0 Success\n", 4, Mistake::MissingDn);
    check_error(b"dn: a\ncn: x\ndn: b\n", 3, Mistake::SecondDn);
    check_error(b"dn:< file:///x\n", 1, Mistake::DnFromUrl);
    check_error(b"dn:: /w==\n", 1, Mistake::NotText);
    check_error(b"dn: a\nchangetype: add\ncn: x\n", 2, Mistake::Change);
    check_error(b"dn: a\ncontrol: 1.2.3 true\nchangetype: delete\n", 2, Mistake::Change);
    check_error(b"dn: a\ncn\n", 2, Mistake::NoColon);
    check_error(b"hello\n", 1, Mistake::NoColon);
    check_error(b"dn: a\n-\n", 2, Mistake::NoColon);
    for bad in ["", "c n", "cn;", "cn;;x", "-cn", "c\u{f6}", "cn;x y", "cn "] {
        check_error(format!("dn: a\nsn: x\n{bad}: x\n").as_bytes(), 3, Mistake::Description);
    }
    for bad in ["YQ", "YQ=", "Y Q=", "YQ==x", "????", "YR=="] {
        check_error(format!("dn: a\nsn: x\n y\ncn:: {bad}\n").as_bytes(), 4, Mistake::Base64);
    }
    check_error(b"dn: a\ncn: \xff\n", 2, Mistake::NotText);
    check_error(b"dn: a\ncn: x\0y\n", 2, Mistake::NotText);
    check_error(b"dn: a\ncn: x\ry\n", 2, Mistake::NotText);
    check_error(b"dn: a\ncn:<\n", 2, Mistake::Url);
    check_error(b"dn: a\ncn:< nowhere\n", 2, Mistake::Url);
}

#[test]
fn sizes_are_bounded() {
    let long = [b"dn: a\ncn: ", vec![b'x'; MAX_LINE_BYTES].as_slice()].concat();
    let mut reader = Reader::new(long.as_slice());
    assert!(matches!(reader.entry(), Err(LdifError::Mistake { line: 2, mistake: Mistake::LineTooLong })));
    let folded = [b"dn: a\ncn: ", "x\n ".repeat(MAX_LINE_BYTES).as_bytes()].concat();
    let mut reader = Reader::new(folded.as_slice());
    assert!(matches!(reader.entry(), Err(LdifError::Mistake { line: 2, mistake: Mistake::LineTooLong })));
    let values = MAX_ENTRY_BYTES / VALUE_OVERHEAD_BYTES + 1;
    let many = [b"dn: a\n", "cn:\n".repeat(values).as_bytes()].concat();
    let mut reader = Reader::new(many.as_slice());
    assert!(matches!(reader.entry(), Err(LdifError::Mistake { mistake: Mistake::EntryTooLarge, .. })));
    let different: String = (0..=MAX_ATTRIBUTES).map(|at| format!("a{at}: x\n")).collect();
    let wide = format!("dn: a\n{different}");
    let mut reader = Reader::new(wide.as_bytes());
    let line = MAX_ATTRIBUTES as u64 + 2;
    assert!(matches!(
        reader.entry(),
        Err(LdifError::Mistake { line: found, mistake: Mistake::TooManyAttributes }) if found == line
    ));
}

/// Writes entries as `ldapsearch` does, folding after `width` bytes.
fn write(entries: &[Entry], width: usize, end: &str) -> Vec<u8> {
    let mut out = format!("version: 1{end}").into_bytes();
    for entry in entries {
        let values =
            entry.attributes.iter().flat_map(|a| a.values.iter().map(|v| (a.name.as_str(), v.as_slice())));
        for (name, value) in
            [("dn", entry.dn.as_bytes()), ("# dn", entry.dn.as_bytes())].into_iter().chain(values)
        {
            let line = line(name, value);
            let pieces: Vec<&[u8]> = line.as_bytes().chunks(width).collect();
            out.extend_from_slice(&pieces.join(format!("{end} ").as_bytes()));
            out.extend_from_slice(end.as_bytes());
        }
        out.extend_from_slice(end.as_bytes());
    }
    out
}

fn line(name: &str, value: &[u8]) -> String {
    let is_safe = value.iter().all(|byte| (0x20..0x7f).contains(byte))
        && !value.first().is_some_and(|byte| matches!(byte, b' ' | b':' | b'<'));
    if is_safe {
        format!("{name}: {}", String::from_utf8_lossy(value))
    } else {
        format!("{name}:: {}", STANDARD.encode(value))
    }
}

fn entries() -> impl Strategy<Value = Vec<Entry>> {
    let value = prop_oneof!["[ -~]{0,40}".prop_map(String::into_bytes), any::<Vec<u8>>()];
    let values = prop::collection::vec(value, 1..4);
    let attributes = prop::collection::btree_map("x[a-z0-9-]{1,8}(;[a-z]{1,4})?", values, 0..5);
    let entry = (any::<String>(), attributes).prop_map(|(dn, attributes)| Entry {
        dn,
        attributes: attributes.into_iter().map(|(name, values)| Attribute { name, values }).collect(),
    });
    prop::collection::vec(entry, 0..5)
}

proptest! {
    #[test]
    fn no_bytes_panic(input: Vec<u8>) {
        let _ = read(&input);
    }

    #[test]
    fn no_text_panics(input in "((dn|cn|version|changetype|#)?(:|::|:<)?[ a=]{0,3}\r?\n? ?){0,12}") {
        let _ = read(input.as_bytes());
    }

    #[test]
    fn what_is_written_is_read(entries in entries(), width in 1..100usize, crlf: bool) {
        let end = if crlf { "\r\n" } else { "\n" };
        prop_assert_eq!(read(&write(&entries, width, end)).unwrap(), entries);
    }
}
