//! Search filters that are evaluated here (RFC 4515 in writing, RFC 4511 section 4.5.1.7 in meaning), on entries as a
//! directory sent them.
//!
//! Understood are and, or, not, presence, equality, substrings, `>=`, `<=`, and the bitwise AND of Active Directory;
//! the rest is refused when the filter is parsed. There is no schema here, so every text compares without letter case
//! and without spaces that do not matter, as nearly all attributes do; names compare as DNs; and `>=` and `<=` compare
//! as numbers where both sides are numbers. `objectClass` has the classes that the entry lists, and no others.
//!
//! As a server does it: an attribute that the entry lacks matches nothing, so that a negation of it is true; a value
//! that cannot be compared makes an item undefined, and what is undefined in the end does not match.

use super::group::normal_dn;
use super::ldap_text::{Filter, LdapTextError};
use super::mapping::Entry;

/// LDAP_MATCHING_RULE_BIT_AND ([MS-ADTS] section 3.1.1.3.4.4.1).
const BIT_AND: &str = "1.2.840.113556.1.4.803";

/// A filter that can be asked about an entry.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Condition {
    text: Filter,
    node: Node,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Node {
    And(Vec<Node>),
    Or(Vec<Node>),
    Not(Box<Node>),
    Item { attribute: String, test: Test },
}

/// What is asked of one value. Texts are kept in the form in which they are compared.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Test {
    Present,
    Equals(Vec<u8>),
    /// The pieces between the asterisks, the first and the last of them at the ends.
    Contains(Vec<Vec<u8>>),
    AtLeast(Vec<u8>),
    AtMost(Vec<u8>),
    /// All of these bits are set.
    Bits(i64),
}

impl Condition {
    /// Checks a filter. One that only a server could evaluate is an error, too.
    pub fn parse(text: &str) -> Result<Condition, LdapTextError> {
        let filter = Filter::parse(text)?;
        let mut parser = Parser { chars: text.chars().collect(), at: 0 };
        let node = parser.node()?;
        Ok(Condition { text: filter, node })
    }

    /// The filter as it was written.
    pub fn as_str(&self) -> &str {
        self.text.as_str()
    }

    /// The same filter for a server.
    pub fn filter(&self) -> &Filter {
        &self.text
    }

    /// Whether an entry matches. It must have been read with [`attributes`](Condition::attributes).
    pub fn matches(&self, entry: &Entry) -> bool {
        self.node.evaluate(entry) == Some(true)
    }

    /// The attributes that it looks at.
    pub fn attributes(&self) -> Vec<&str> {
        let mut names = Vec::new();
        self.node.collect_attributes(&mut names);
        names
    }
}

impl Node {
    /// `None` is undefined.
    fn evaluate(&self, entry: &Entry) -> Option<bool> {
        match self {
            Node::And(nodes) => all(nodes.iter().map(|node| node.evaluate(entry))),
            Node::Or(nodes) => any(nodes.iter().map(|node| node.evaluate(entry))),
            Node::Not(node) => node.evaluate(entry).map(|is_true| !is_true),
            Node::Item { attribute, test } => any(entry.values(attribute).map(|value| test.evaluate(value))),
        }
    }

    fn collect_attributes<'a>(&'a self, names: &mut Vec<&'a str>) {
        match self {
            Node::And(nodes) | Node::Or(nodes) => {
                nodes.iter().for_each(|node| node.collect_attributes(names))
            }
            Node::Not(node) => node.collect_attributes(names),
            Node::Item { attribute, .. } => names.push(attribute),
        }
    }
}

/// False if one is false, else undefined if one is, else true.
fn all(mut results: impl Iterator<Item = Option<bool>>) -> Option<bool> {
    let first = results.try_fold(Some(true), |sum, result| match result {
        Some(false) => Err(Some(false)),
        Some(true) => Ok(sum),
        None => Ok(None),
    });
    first.unwrap_or_else(|found| found)
}

/// True if one is true, else undefined if one is, else false.
fn any(results: impl Iterator<Item = Option<bool>>) -> Option<bool> {
    all(results.map(|result| result.map(|is_true| !is_true))).map(|is_true| !is_true)
}

impl Test {
    fn evaluate(&self, value: &[u8]) -> Option<bool> {
        match self {
            Test::Present => Some(true),
            Test::Equals(wanted) => Some(is_equal(&fold(value), wanted)),
            Test::Contains(pieces) => Some(contains(&fold(value), pieces)),
            Test::AtLeast(least) => Some(order(&fold(value), least)?.is_ge()),
            Test::AtMost(most) => Some(order(&fold(value), most)?.is_le()),
            Test::Bits(mask) => Some(number(value)? & mask == *mask),
        }
    }
}

/// Letter case does not count, nor do spaces at the ends and more than one in between (RFC 4518 section 2.6.1). What is
/// not text is compared as it is.
fn fold(value: &[u8]) -> Vec<u8> {
    match std::str::from_utf8(value) {
        Ok(text) => {
            let words: Vec<&str> = text.split(' ').filter(|word| !word.is_empty()).collect();
            words.join(" ").to_lowercase().into_bytes()
        }
        Err(_) => value.to_vec(),
    }
}

/// The same for a piece of a text, whose spaces at the inner ends matter.
fn fold_piece(piece: &[u8], is_first: bool, is_last: bool) -> Vec<u8> {
    let is_space = |byte: Option<&u8>| byte == Some(&b' ');
    let (leads, trails) = (is_space(piece.first()) && !is_first, is_space(piece.last()) && !is_last);
    let mut folded = fold(piece);
    if leads {
        folded.insert(0, b' ');
    }
    if trails && !folded.ends_with(b" ") {
        folded.push(b' ');
    }
    folded
}

/// Servers write the same DN in different ways.
fn is_equal(value: &[u8], wanted: &[u8]) -> bool {
    let dn = |bytes: &[u8]| std::str::from_utf8(bytes).ok().filter(|text| text.contains('=')).map(normal_dn);
    value == wanted || dn(wanted).is_some_and(|wanted| dn(value) == Some(wanted))
}

fn contains(value: &[u8], pieces: &[Vec<u8>]) -> bool {
    let [first, inner @ .., last] = pieces else { return false };
    let Some(mut rest) =
        value.strip_prefix(first.as_slice()).and_then(|rest| rest.strip_suffix(last.as_slice()))
    else {
        return false;
    };
    inner.iter().filter(|piece| !piece.is_empty()).all(|piece| {
        match rest.windows(piece.len()).position(|window| window == piece.as_slice()) {
            Some(at) => {
                rest = rest.get(at + piece.len()..).unwrap_or_default();
                true
            }
            None => false,
        }
    })
}

/// `None` where a number would be compared with something else.
fn order(value: &[u8], with: &[u8]) -> Option<std::cmp::Ordering> {
    match (number(value), number(with)) {
        (Some(value), Some(with)) => Some(value.cmp(&with)),
        (None, None) => Some(value.cmp(with)),
        _ => None,
    }
}

fn number(value: &[u8]) -> Option<i64> {
    std::str::from_utf8(value).ok()?.trim().parse().ok()
}

/// Takes apart what [`Filter::parse`] has found correct.
struct Parser {
    chars: Vec<char>,
    at: usize,
}

impl Parser {
    fn peek(&self) -> Option<char> {
        self.chars.get(self.at).copied()
    }

    fn error(&self, what: &'static str) -> LdapTextError {
        LdapTextError { at: self.at, what }
    }

    fn node(&mut self) -> Result<Node, LdapTextError> {
        // The parenthesis.
        self.at += 1;
        let node = match self.peek() {
            Some('&') => Node::And(self.nodes()?),
            Some('|') => Node::Or(self.nodes()?),
            Some('!') => {
                self.at += 1;
                Node::Not(Box::new(self.node()?))
            }
            _ => self.item()?,
        };
        self.at += 1;
        Ok(node)
    }

    fn nodes(&mut self) -> Result<Vec<Node>, LdapTextError> {
        self.at += 1;
        let mut nodes = Vec::new();
        while self.peek() == Some('(') {
            nodes.push(self.node()?);
        }
        Ok(nodes)
    }

    fn item(&mut self) -> Result<Node, LdapTextError> {
        if !self.peek().is_some_and(|c| c.is_ascii_alphabetic()) {
            return Err(self.error("an attribute is needed here, by its name and not by its number"));
        }
        let attribute = self.until(&['=', '<', '>', '~', ':', ';']);
        let test = match self.peek() {
            Some('~') => return Err(self.error("~= can't be evaluated: write = with asterisks")),
            Some(';') => return Err(self.error("options of attributes can't be evaluated: leave them out")),
            Some(':') => self.bits()?,
            Some('>') => Test::AtLeast(self.ordered()?),
            Some('<') => Test::AtMost(self.ordered()?),
            _ => self.equality()?,
        };
        Ok(Node::Item { attribute, test })
    }

    /// `:1.2.840.113556.1.4.803:=MASK`
    fn bits(&mut self) -> Result<Test, LdapTextError> {
        let start = self.at;
        self.at += 1;
        let rule = self.until(&['=']);
        if rule.strip_suffix(':') != Some(BIT_AND) {
            self.at = start;
            return Err(self.error("the only matching rule that can be evaluated is 1.2.840.113556.1.4.803"));
        }
        self.at += 1;
        let start = self.at;
        let mask = self.until(&[')']).parse().ok().filter(|mask| *mask >= 0);
        mask.map(Test::Bits).ok_or(LdapTextError { at: start, what: "expected the bits as a decimal number" })
    }

    fn ordered(&mut self) -> Result<Vec<u8>, LdapTextError> {
        self.at += 2;
        let start = self.at;
        let mut pieces = self.pieces();
        match (pieces.pop(), pieces.is_empty()) {
            (Some(only), true) => Ok(fold(&only)),
            _ => Err(LdapTextError { at: start, what: "an asterisk must be written as \\2a here" }),
        }
    }

    fn equality(&mut self) -> Result<Test, LdapTextError> {
        self.at += 1;
        let start = self.at;
        let pieces = self.pieces();
        let last = pieces.len() - 1;
        if let [only] = pieces.as_slice() {
            return Ok(Test::Equals(fold(only)));
        }
        if last == 1 && pieces.iter().all(Vec::is_empty) {
            return Ok(Test::Present);
        }
        if pieces.iter().all(Vec::is_empty) {
            return Err(LdapTextError { at: start, what: "expected text between the asterisks" });
        }
        let fold = |(at, piece): (usize, &Vec<u8>)| fold_piece(piece, at == 0, at == last);
        Ok(Test::Contains(pieces.iter().enumerate().map(fold).collect()))
    }

    /// What stands between the asterisks of a value, one piece more than there are asterisks.
    fn pieces(&mut self) -> Vec<Vec<u8>> {
        let mut pieces = Vec::new();
        let mut piece = Vec::new();
        while let Some(c) = self.peek().filter(|c| *c != ')') {
            self.at += 1;
            match c {
                '*' => pieces.push(std::mem::take(&mut piece)),
                '\\' => {
                    let digits: String = self.chars.iter().skip(self.at).take(2).collect();
                    self.at += 2;
                    piece.extend(u8::from_str_radix(&digits, 16).ok());
                }
                c => piece.extend(c.to_string().bytes()),
            }
        }
        pieces.push(piece);
        pieces
    }

    fn until(&mut self, ends: &[char]) -> String {
        let rest = self.chars.iter().skip(self.at);
        let text: String = rest.take_while(|c| !ends.contains(c)).collect();
        self.at += text.chars().count();
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::mapping::Attribute;

    fn entry(attributes: &[(&str, &[&str])]) -> Entry {
        let attribute = |(name, values): &(&str, &[&str])| Attribute {
            name: (*name).to_owned(),
            values: values.iter().map(|value| value.as_bytes().to_vec()).collect(),
        };
        Entry { dn: "cn=x".to_owned(), attributes: attributes.iter().map(attribute).collect() }
    }

    fn mailbox() -> Entry {
        entry(&[
            ("objectClass", &["top", "inetOrgPerson"]),
            ("employeeType", &["Shared  Mailbox "]),
            ("mail;x-work", &["info@example.org", "Office@Example.ORG"]),
            ("userAccountControl", &["514"]),
            ("groupType", &["-2147483646"]),
            ("uidNumber", &["1000"]),
            ("memberOf", &["CN=Shared, OU=Groups,dc=example,dc=org"]),
            ("description", &["a*b (c)"]),
            ("room", &["none"]),
            ("created", &["20261124063328.0Z"]),
        ])
    }

    #[test]
    fn filters_match_as_on_a_server() {
        let entry = mailbox();
        for (filter, is_match) in [
            ("(employeetype=shared mailbox)", true),
            ("(employeeType= SHARED   mailbox )", true),
            ("(employeeType=shared)", false),
            ("(employeeType=*)", true),
            ("(title=*)", false),
            ("(title=x)", false),
            ("(!(title=x))", true),
            ("(mail=office@example.org)", true),
            ("(mail=*@EXAMPLE.org)", true),
            ("(mail=info*)", true),
            ("(mail=i*o@*.org)", true),
            ("(mail=*org*info*)", false),
            ("(mail=info@example.org*info@example.org)", false),
            ("(employeeType=shared *)", true),
            ("(employeeType=shared*mailbox)", true),
            ("(employeeType=sharedm*)", false),
            (r"(description=a\2ab \28c\29)", true),
            (r"(description=a\2a*)", true),
            ("(description=a*c*)", true),
            ("(memberOf=cn=shared,ou=groups,DC=example,dc=org)", true),
            ("(memberOf=cn=shared,ou=groups)", false),
            ("(userAccountControl:1.2.840.113556.1.4.803:=2)", true),
            ("(userAccountControl:1.2.840.113556.1.4.803:=514)", true),
            ("(userAccountControl:1.2.840.113556.1.4.803:=3)", false),
            ("(userAccountControl:1.2.840.113556.1.4.803:=0)", true),
            ("(groupType:1.2.840.113556.1.4.803:=2147483648)", true),
            ("(uidNumber>=999)", true),
            ("(uidNumber>=1001)", false),
            ("(uidNumber<=1000)", true),
            ("(created>=20260101000000.0Z)", true),
            ("(created<=20260101000000.0Z)", false),
            ("(mail>=j)", true),
            ("(&)", true),
            ("(|)", false),
            ("(&(objectClass=inetOrgPerson)(|(title=x)(employeeType=shared*)))", true),
            ("(&(objectClass=inetOrgPerson)(!(employeeType=shared*)))", false),
        ] {
            assert_eq!(Condition::parse(filter).unwrap().matches(&entry), is_match, "{filter}");
        }
    }

    #[test]
    fn what_cannot_be_compared_is_undefined() {
        const UNDEFINED: &str = "(room:1.2.840.113556.1.4.803:=1)";
        let entry = mailbox();
        for (filter, is_match) in [
            (UNDEFINED.to_owned(), false),
            (format!("(!{UNDEFINED})"), false),
            (format!("(|{UNDEFINED}(uidNumber=1000))"), true),
            (format!("(|{UNDEFINED}(uidNumber=1))"), false),
            (format!("(!(|{UNDEFINED}(uidNumber=1)))"), false),
            (format!("(!(&{UNDEFINED}(uidNumber=1)))"), true),
            (format!("(!(&{UNDEFINED}(uidNumber=1000)))"), false),
            ("(!(room>=5))".to_owned(), false),
            ("(!(room<=5))".to_owned(), false),
        ] {
            assert_eq!(Condition::parse(&filter).unwrap().matches(&entry), is_match, "{filter}");
        }
        let mut photo = mailbox();
        let values = vec![vec![0xff, 0x2a]];
        photo.attributes.push(Attribute { name: "jpegPhoto".to_owned(), values });
        assert!(Condition::parse(r"(jpegPhoto=\ff*)").unwrap().matches(&photo));
        assert!(Condition::parse(r"(jpegPhoto=\ff\2a)").unwrap().matches(&photo));
    }

    #[test]
    fn what_only_a_server_can_evaluate_is_refused() {
        for (filter, at, what) in [
            ("(cn~=x)", 3, "~= can't be evaluated: write = with asterisks"),
            ("(cn;lang-de=x)", 3, "options of attributes can't be evaluated: leave them out"),
            ("(2.5.4.3=x)", 1, "an attribute is needed here, by its name and not by its number"),
            ("(:dn:2.5.13.2:=x)", 1, "an attribute is needed here, by its name and not by its number"),
            (
                "(cn:caseExactMatch:=x)",
                3,
                "the only matching rule that can be evaluated is 1.2.840.113556.1.4.803",
            ),
            ("(cn:dn:=x)", 3, "the only matching rule that can be evaluated is 1.2.840.113556.1.4.803"),
            (
                "(a:1.2.840.113556.1.4.804:=1)",
                2,
                "the only matching rule that can be evaluated is 1.2.840.113556.1.4.803",
            ),
            ("(&(a=b)(a:1.2.840.113556.1.4.803:=x))", 34, "expected the bits as a decimal number"),
            ("(a:1.2.840.113556.1.4.803:=-1)", 27, "expected the bits as a decimal number"),
            ("(a=**)", 3, "expected text between the asterisks"),
            ("(a>=1*)", 4, "an asterisk must be written as \\2a here"),
            ("(a=b", 4, "expected )"),
        ] {
            assert_eq!(Condition::parse(filter), Err(LdapTextError { at, what }), "{filter}");
        }
        let condition = Condition::parse("(&(a=1)(!(|(b>=2)(c=*)))(A=2))").unwrap();
        assert_eq!(condition.attributes(), ["a", "b", "c", "A"]);
    }
}
