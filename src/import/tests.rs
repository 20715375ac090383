//! Files as rows.

use std::io::{BufReader, Read};

use super::*;
use crate::domain::account::RowContent;

/// Each row in short: its line, then the person, or the reason and the message.
fn read(bytes: impl Into<Vec<u8>>) -> Vec<String> {
    let input = BufReader::with_capacity(1024, std::io::Cursor::new(bytes.into()));
    let rows = rows(input, Domain::parse("x.org").unwrap()).unwrap();
    let shown = |row: Row| match row {
        Err(sentence) => format!("failed: {sentence}"),
        Ok(ImportRow { line, content }) => match content {
            RowContent::Skipped(reason) => format!("{line} skipped {reason}"),
            RowContent::Wrong(mistake) => {
                format!("{line} {} {}: {}", mistake.reason, mistake.user.unwrap_or_default(), mistake.message)
            }
            RowContent::Person(person) => {
                let names = |names: Vec<crate::domain::name::Name>| {
                    names.iter().map(ToString::to_string).collect::<Vec<_>>().join("+")
                };
                let aliases = person.aliases.map_or("-".to_owned(), names);
                let id = person.id.map(|id| format!(" {id}")).unwrap_or_default();
                let state = if person.enabled { "" } else { " disabled" };
                let name = person.display_name.unwrap_or_else(|| "-".to_owned());
                format!("{line} {} [{name}] {aliases}{id}{state}", person.address)
            }
        },
    };
    rows.map(shown).collect()
}

#[track_caller]
fn check(text: &str, expected: &[&str]) {
    let got = read(text);
    let is_like = |(got, expected): (&String, &&str)| match expected.strip_suffix('…') {
        Some(start) => got.starts_with(start),
        None => got == expected,
    };
    assert!(got.len() == expected.len() && got.iter().zip(expected).all(is_like), "{text}\n{got:#?}");
}

#[test]
fn csv_is_read_with_and_without_a_header() {
    check("a@x.org\nB@X.ORG\r\n\r\nc@x.org", &["1 a@x.org [-] -", "2 b@x.org [-] -", "4 c@x.org [-] -"]);
    check("a@x.org,Ada\n", &["1 a@x.org [Ada] -"]);
    check("a@x.org,,\n", &["1 a@x.org [] "]);
    check(
        "\u{feff}Name , ADDRESS\nAda L.,a@x.org\n\"Ob\"\"la, di\",o@x.org\n",
        &["2 a@x.org [Ada L.] -", "3 o@x.org [Ob\"la, di] -"],
    );
    check(
        "address,name,aliases\na@x.org,Ada,\"b@x.org, c@x.org;d@x.org  e@x.org\"\n",
        &["2 a@x.org [Ada] b@x.org+c@x.org+d@x.org+e@x.org"],
    );
    check(
        "address,name\na@x.org,\"Two\nlines\"\nb@x.org,B\n",
        &["2 a@x.org [Two\nlines] -", "4 b@x.org [B] -"],
    );
    check("", &[]);
    check("address\n", &[]);
}

#[test]
fn a_wrong_row_is_told_with_its_line() {
    check(
        "address,name\na@x.org\nb@y.org,B\nc d@x.org,C\ne@x.org,E,F\n,G\nh,H\ni@x.org,I\n",
        &[
            "2 invalid a@x.org: there are 1 columns instead of 2",
            "3 foreign_domain b@y.org: b@y.org is not in x.org",
            "4 invalid c d@x.org: \"c d@x.org\": it is not a mail address…",
            "5 invalid e@x.org: there are 3 columns instead of 2",
            "6 invalid : \"\": the name is empty",
            "7 invalid h: \"h\": the name has no @domain…",
            "8 i@x.org [I] -",
        ],
    );
    check("a@x.org,A,b@y.org\n", &["1 foreign_domain a@x.org: b@y.org is not in x.org"]);
    check("a@x.org,A,b@x.org c\n", &["1 invalid a@x.org: \"c\": the name has no @domain…"]);
    let aliases: String = (0..101).map(|number| format!("a{number}@x.org ")).collect();
    check(&format!("a@x.org,A,{aliases}\n"), &["1 invalid a@x.org: there are more than 100 aliases"]);
    // A quote that is not closed takes the rest of the file; one inside a field is only a character.
    check("a@x.org,\"A\nb@x.org,B\n", &["1 invalid : a quote that begins here is never closed"]);
    check("a@x.org,5\" A\nb@x.org,B\n", &["1 a@x.org [5\" A] -", "2 b@x.org [B] -"]);
    assert_eq!(
        read(b"a@x.org,A\nb@x.org,J\xfcrgen\nc@x.org,C\n".as_slice()),
        ["1 a@x.org [A] -", "2 invalid : this is not UTF-8: save the file as UTF-8", "3 c@x.org [C] -"]
    );
    let long = format!("a@x.org,{}\nb@x.org,B\n", "x".repeat(1 << 20));
    check(&long, &["1 invalid : the row is longer than 64 KiB", "2 b@x.org [B] -"]);
    let long = format!("a@x.org,\"{}\"\nb@x.org,B\n", "x\n".repeat(40_000));
    assert_eq!(read(long)[0], "1 invalid : the row is longer than 64 KiB");
}

#[test]
fn what_is_no_such_file_ends_at_once() {
    let known = "the columns are address, name and aliases, separated by commas";
    for (text, expected) in [
        ("mail,name\na@x.org,A\n", "this is neither a header with the column address nor an address"),
        ("address;name\na@x.org;A\n", "this is neither a header"),
        ("a@x.org;A;b@x.org\n", "this is neither a header"),
        ("address,phone\n", "\"phone\" is no column"),
        ("address,Address\n", "the column \"Address\" stands twice"),
        ("a@x.org,b,c,d\n", "there are 4 columns and no header"),
        ("<html>\n", "this is neither a header"),
    ] {
        let rows = read(text);
        assert_eq!(rows.len(), 1, "{text}: {rows:?}");
        assert!(rows[0].starts_with(&format!("failed: line 1: {expected}")), "{text}: {rows:?}");
        assert!(rows[0].ends_with(known) || text.contains("Address"), "{rows:?}");
    }
}

const UUID: &str = "00010203-0405-0607-0809-0a0b0c0d0e0f";

#[test]
fn ldif_brings_people() {
    let text = format!(
        "# an export\n\nversion: 1\ndn: uid=a,dc=x\nuid: a\nmail: ada@x.org\nmail: ada@home.example\ncn: Ada\n\
         entryUUID: {UUID}\n\ndn: cn=all,dc=x\nobjectClass: groupOfNames\ncn: all\nmail: all@x.org\n\n\
         dn: uid=b,dc=x\nuid: b\npwdAccountLockedTime: 000001010000Z\n\n\
         dn: cn=c,dc=x\ncn: c\nmail: c@home.example\n\ndn: cn=d,dc=x\ncn: d\n\ndn: uid=e,dc=x\nuid: e\noops\n"
    );
    check(
        &text,
        &[
            &format!("4 ada@x.org [Ada] a@x.org {UUID}"),
            "11 skipped not_a_person",
            "16 b@x.org []  disabled",
            "20 foreign_domain c@home.example: c@home.example has no address in x.org",
            "24 skipped no_name",
            "failed: line 29: expected an attribute and a colon",
        ],
    );
}

/// A file that is longer than memory should be.
#[test]
fn rows_come_one_by_one() {
    struct Endless(u64);
    impl Read for Endless {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            self.0 += 1;
            let row = format!("u{}@x.org,U\n", self.0);
            buffer[..row.len()].copy_from_slice(row.as_bytes());
            Ok(row.len())
        }
    }
    let mut rows = rows(BufReader::new(Endless(0)), Domain::parse("x.org").unwrap()).unwrap();
    for line in 1..=1000 {
        assert_eq!(rows.next().unwrap().unwrap().line, line);
    }
}
