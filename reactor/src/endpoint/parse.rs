//! The grammar of endpoint strings: kind, arguments, keyword arguments, and how values are read from them.
//!
//! [`EndpointString::parse`] cuts a string into words and undoes the escapes; the kind decides which [`Form`]
//! the rest must have, and [`Fields`] hands out the values by name, each already as what it means. Invariant:
//! a word keeps the column it came from, so that every error can point at it.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::str::{Chars, FromStr};
use std::time::Duration;

use super::error::{EndpointError, Quoted};
use super::limits::Limit;

/// An endpoint string cut into words. Which words there may be is up to the kind.
#[derive(Debug)]
pub(crate) struct EndpointString<'a> {
    source: &'a str,
    kind: Word,
    args: Vec<Word>,
    keywords: Vec<(Word, Word)>,
}

/// A part of an endpoint string, without escapes, and the column (in characters, from 1) where it begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Word {
    pub(super) text: String,
    pub(super) column: usize,
}

impl fmt::Display for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (column {})", Quoted(&self.text), self.column)
    }
}

/// What a kind of endpoint can be given: names for its arguments in order, which can also be used as
/// keywords, and the further keywords.
#[derive(Debug)]
pub(crate) struct Form {
    pub(super) args: &'static [&'static str],
    pub(super) keywords: &'static [&'static str],
    /// A string that is right, for errors to show.
    pub(super) example: &'static str,
}

impl<'a> EndpointString<'a> {
    /// Cuts a string into words.
    pub(crate) fn parse(source: &'a str) -> Result<Self, EndpointError> {
        let complain = |complaint: String| EndpointError::in_string(source, complaint);
        if source.is_empty() {
            return Err(complain(r#"it is empty; write something like "tcp:8000""#.to_owned()));
        }
        let mut reader = Reader { chars: source.chars(), column: 1 };
        let (kind, mut end) = reader.word(Equals::Literal).map_err(complain)?;
        let mut parsed = Self { source, kind, args: Vec::new(), keywords: Vec::new() };
        while end != End::Text {
            let (word, word_end) = reader.word(Equals::EndsName).map_err(complain)?;
            if word_end == End::Equals {
                let (value, value_end) = reader.word(Equals::Literal).map_err(complain)?;
                parsed.keywords.push((word, value));
                end = value_end;
            } else if parsed.keywords.is_empty() {
                parsed.args.push(word);
                end = word_end;
            } else {
                return Err(complain(format!(
                    "argument {word} stands behind a keyword; \
                     put it in front, or write \\: for a colon in a value"
                )));
            }
        }
        Ok(parsed)
    }

    pub(crate) fn kind(&self) -> &str {
        &self.kind.text
    }

    pub(super) fn source(&self) -> &str {
        self.source
    }

    /// What stands behind the kind and its colon, as it was written.
    pub(super) fn behind_kind(&self) -> &str {
        // A kind that is known has no escapes.
        self.source.get(self.kind.text.len() + 1..).unwrap_or_default()
    }

    pub(super) fn keywords(&self) -> impl Iterator<Item = (&str, &str)> {
        self.keywords.iter().map(|(name, value)| (&*name.text, &*value.text))
    }

    pub(super) fn args(&self) -> &[Word] {
        &self.args
    }

    /// The error for a kind that is none of the known ones.
    pub(super) fn unknown_kind(&self, purpose: &str, known: &[&str]) -> EndpointError {
        let kinds = if known.len() == 1 { "kind" } else { "kinds" };
        let are = if known.len() == 1 { "is" } else { "are" };
        let mut complaint =
            format!("unknown kind {}; the {kinds} for {purpose} {are} {}", self.kind, list(known));
        if self.kind.text.starts_with(|c: char| c == '[' || c.is_ascii_digit()) {
            complaint.push_str(r#" (an endpoint begins with its kind, as in "tcp:8000")"#);
        }
        self.error(complaint)
    }

    /// The error for a kind that this build of the crate has not.
    #[cfg(not(feature = "tls"))]
    pub(super) fn without_feature(&self, feature: &str) -> EndpointError {
        self.error(format!(
            "kind {} needs the feature \"{feature}\" of twistor, which this program was built without",
            self.kind
        ))
    }

    pub(super) fn error(&self, complaint: impl fmt::Display) -> EndpointError {
        EndpointError::in_string(self.source, complaint)
    }

    /// Gives every word its name.
    pub(super) fn into_fields(mut self, form: &Form) -> Result<Fields<'a>, EndpointError> {
        // "stdio:" is how a kind without arguments is written.
        if form.args.is_empty() && matches!(&*self.args, [only] if only.text.is_empty()) {
            self.args.clear();
        }
        if let Some(extra) = self.args.get(form.args.len()) {
            return Err(self.error(format!(
                "{extra} is one argument too many for {} ({}); in a value write \\: for a colon, \
                 an IPv6 address may stand in brackets",
                self.kind.text,
                form.args.join(", "),
            )));
        }
        let mut fields = Fields { source: self.source, example: form.example, values: Vec::new() };
        fields.values.extend(form.args.iter().copied().zip(self.args));
        for (name, value) in self.keywords {
            let Some(known) = form.args.iter().chain(form.keywords).find(|known| **known == name.text) else {
                let mut all = form.keywords.to_vec();
                all.extend(form.args);
                all.sort_unstable();
                return Err(
                    fields.error(format!("unknown keyword {name}; the keywords here are {}", list(&all)))
                );
            };
            if let Some(first) = fields.peek(known) {
                return Err(fields.error(format!(
                    "{} (column {}) is given a second time; the first value is {first}",
                    name.text, name.column
                )));
            }
            fields.values.push((known, value));
        }
        Ok(fields)
    }
}

/// The values of an endpoint string by name. Each is taken once, by the method that knows how to read it.
#[derive(Debug)]
pub(super) struct Fields<'a> {
    source: &'a str,
    example: &'static str,
    values: Vec<(&'static str, Word)>,
}

impl Fields<'_> {
    /// The value of a field as it stands.
    pub(super) fn word(&mut self, name: &str) -> Option<Word> {
        let at = self.values.iter().position(|(known, _)| *known == name)?;
        Some(self.values.swap_remove(at).1)
    }

    /// A field that has to be there, read by one of the other methods.
    pub(super) fn required<T>(&self, name: &str, value: Option<T>) -> Result<T, EndpointError> {
        value.ok_or_else(|| {
            self.error(format!("the {name} is missing; write something like {}", Quoted(self.example)))
        })
    }

    /// A whole number within a range.
    pub(super) fn number<T>(&mut self, name: &str, limit: &Limit<T>) -> Result<Option<T>, EndpointError>
    where
        T: FromStr + PartialOrd + fmt::Display,
    {
        self.read(name, |text| {
            whole_number(text).filter(|number| limit.contains(number)).ok_or_else(|| {
                format!("is not a number from {} to {}{}", limit.min, limit.max, limit.remedy())
            })
        })
    }

    /// A switch.
    pub(super) fn yes_no(&mut self, name: &str) -> Result<Option<bool>, EndpointError> {
        self.read(name, |text| yes_no(text).ok_or_else(|| "is neither yes nor no".to_owned()))
    }

    /// A time in seconds, possibly with a fraction, within a range.
    pub(super) fn seconds(
        &mut self,
        name: &str,
        limit: &Limit<Duration>,
    ) -> Result<Option<Duration>, EndpointError> {
        self.read(name, |text| {
            seconds(text)
                .filter(|time| limit.contains(time))
                .ok_or_else(|| format!("is not {}{}", limit.seconds(), limit.remedy()))
        })
    }

    /// An IP address, which is completed to a socket address by `port`; IPv6 may stand in brackets and have a
    /// scope.
    pub(super) fn address(&mut self, name: &str, port: u16) -> Result<Option<SocketAddr>, EndpointError> {
        self.read(name, |text| ip_address(text, port).ok_or_else(|| not_an_address(text)))
    }

    /// A value with its own syntax. `read` complains in words that continue the name and value.
    pub(super) fn read<T>(
        &mut self,
        name: &str,
        read: impl FnOnce(&str) -> Result<T, String>,
    ) -> Result<Option<T>, EndpointError> {
        let Some(word) = self.word(name) else {
            return Ok(None);
        };
        read(&word.text).map(Some).map_err(|complaint| self.error(format!("{name} {word} {complaint}")))
    }

    pub(super) fn error(&self, complaint: impl fmt::Display) -> EndpointError {
        EndpointError::in_string(self.source, complaint)
    }

    /// The value of a field, which is still to be read.
    pub(super) fn peek(&self, name: &str) -> Option<&Word> {
        self.values.iter().find(|(known, _)| *known == name).map(|(_, word)| word)
    }
}

/// Digits only: the standard parser would also take a sign.
pub(super) fn whole_number<T: FromStr>(text: &str) -> Option<T> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) { text.parse().ok() } else { None }
}

pub(super) fn yes_no(text: &str) -> Option<bool> {
    match text {
        "yes" | "true" | "on" | "1" => Some(true),
        "no" | "false" | "off" | "0" => Some(false),
        _ => None,
    }
}

/// Digits with at most one point between: the standard parser would also take `inf` and `1e9`.
pub(super) fn seconds(text: &str) -> Option<Duration> {
    if !text.starts_with(|c: char| c.is_ascii_digit())
        || !text.bytes().all(|b| b.is_ascii_digit() || b == b'.')
    {
        return None;
    }
    Duration::try_from_secs_f64(text.parse().ok()?).ok()
}

pub(super) fn ip_address(text: &str, port: u16) -> Option<SocketAddr> {
    let bare = match text.strip_prefix('[') {
        Some(rest) => rest.strip_suffix(']').filter(|bare| bare.contains(':'))?,
        None => text,
    };
    if let Some((address, scope)) = bare.split_once('%') {
        let address: Ipv6Addr = address.parse().ok()?;
        return Some(SocketAddrV6::new(address, port, 0, whole_number(scope)?).into());
    }
    let address: IpAddr = bare.parse().ok()?;
    Some(SocketAddr::new(address, port))
}

fn not_an_address(text: &str) -> String {
    if text.is_empty() {
        return "is empty; it needs an IP address".to_owned();
    }
    if text.contains('%') {
        return "is not an IPv6 address with the number of a network device, as in fe80::1%2".to_owned();
    }
    if text.bytes().all(|b| b.is_ascii_hexdigit() || b".:[]".contains(&b)) && text.contains(['.', ':']) {
        return "is not an IP address".to_owned();
    }
    let hint = if text == "localhost" { " (localhost is 127.0.0.1)" } else { "" };
    format!("needs an IP address, not a name{hint}")
}

/// The longest name that the Domain Name System has (RFC 1035, section 2.3.4).
const LONGEST_NAME: usize = 253;

/// Refuses what can only be a mistake; what is left is for the resolver to judge. The complaint continues the
/// name.
pub(super) fn check_host_name(text: &str) -> Result<(), String> {
    let name = text.strip_suffix('.').unwrap_or(text);
    let looks_like_an_address =
        name.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') || text.contains([':', '[', ']', '%']);
    if name.is_empty() {
        return Err("is empty; it needs a name or an IP address".to_owned());
    }
    if looks_like_an_address {
        return Err(not_an_address(text));
    }
    if name.len() > LONGEST_NAME {
        return Err(format!("is longer than {LONGEST_NAME} characters"));
    }
    if let Some(strange) = text.chars().find(|c| c.is_whitespace() || c.is_control() || "/\\@#?".contains(*c))
    {
        return Err(format!("has a {strange:?} in it, which no host name has"));
    }
    match name.split('.').find(|label| label.is_empty() || label.len() > 63) {
        Some("") => Err("has two dots with nothing between them".to_owned()),
        Some(_) => Err("has a part of more than 63 characters".to_owned()),
        None => Ok(()),
    }
}

fn list(names: &[&str]) -> String {
    match names {
        [] => "none".to_owned(),
        [one] => (*one).to_owned(),
        [most @ .., last] => format!("{} and {last}", most.join(", ")),
    }
}

/// Reads words up to the characters that end them.
struct Reader<'a> {
    chars: Chars<'a>,
    /// The column of the next character.
    column: usize,
}

/// Whether an equals sign ends the word, which is then the name of a keyword.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Equals {
    EndsName,
    Literal,
}

/// What a word ended at.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Colon,
    Equals,
    Text,
}

/// Where the reader stands in a word: a bracket counts only at its beginning.
#[derive(Clone, Copy)]
enum At {
    Beginning,
    Inside,
    InBrackets { opened: usize },
}

impl Reader<'_> {
    fn word(&mut self, equals: Equals) -> Result<(Word, End), String> {
        let mut word = Word { text: String::new(), column: self.column };
        let mut at = At::Beginning;
        while let Some((here, c)) = self.next() {
            let read = match (c, at) {
                ('\\', _) => self.escaped(here)?,
                (':', At::Beginning | At::Inside) => return Ok((word, End::Colon)),
                ('=', At::Beginning | At::Inside) if equals == Equals::EndsName => {
                    return Ok((word, End::Equals));
                }
                _ => c,
            };
            at = match (c, at) {
                ('[', At::Beginning) => At::InBrackets { opened: here },
                (']', At::InBrackets { .. }) | (_, At::Beginning) => At::Inside,
                _ => at,
            };
            word.text.push(read);
        }
        if let At::InBrackets { opened } = at {
            return Err(format!(
                r#"the bracket "[" (column {opened}) is not closed; write \[ for a plain one"#
            ));
        }
        Ok((word, End::Text))
    }

    fn next(&mut self) -> Option<(usize, char)> {
        let here = self.column;
        let c = self.chars.next()?;
        self.column += 1;
        Some((here, c))
    }

    fn escaped(&mut self, column: usize) -> Result<char, String> {
        match self.next() {
            Some((_, c @ (':' | '=' | '\\' | '[' | ']'))) => Ok(c),
            Some((_, c)) => Err(format!(
                r#""\{}" (column {column}) is no escape; those are \: \= \\ \[ and \]"#,
                c.escape_debug()
            )),
            None => Err(format!(
                r"the backslash (column {column}) has nothing behind it; write \\ for a plain one"
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FORM: Form = Form { args: &["host", "port"], keywords: &["path", "on"], example: "x:h:1" };

    fn fields(source: &str) -> Result<Fields<'_>, EndpointError> {
        EndpointString::parse(source)?.into_fields(&FORM)
    }

    fn error(source: &str) -> String {
        let error = match fields(source) {
            Ok(fields) => panic!("{source} was read as {fields:?}"),
            Err(error) => error.to_string(),
        };
        let start = format!("bad endpoint \"{source}\": ");
        error.strip_prefix(&start).unwrap_or_else(|| panic!("{error}")).to_owned()
    }

    fn word(text: &str, column: usize) -> Word {
        Word { text: text.to_owned(), column }
    }

    #[test]
    fn words_know_their_columns() {
        let parsed = EndpointString::parse("tcp:a:bc:on=yes:path=").unwrap();
        assert_eq!(parsed.kind, word("tcp", 1));
        assert_eq!(parsed.args, [word("a", 5), word("bc", 7)]);
        assert_eq!(parsed.keywords, [(word("on", 10), word("yes", 13)), (word("path", 17), word("", 22))]);
    }

    #[test]
    fn columns_count_characters() {
        let parsed = EndpointString::parse("tcp:häß:ö").unwrap();
        assert_eq!(parsed.args, [word("häß", 5), word("ö", 9)]);
    }

    #[test]
    fn a_backslash_takes_the_meaning_from_what_follows() {
        let parsed = EndpointString::parse(r"x:a\:b\=c\\d\[\]:path=e\:f=g").unwrap();
        assert_eq!(parsed.args, [word(r"a:b=c\d[]", 3)]);
        assert_eq!(parsed.keywords, [(word("path", 18), word("e:f=g", 23))]);
    }

    #[test]
    fn brackets_at_the_beginning_keep_colons() {
        let parsed = EndpointString::parse("x:[::1]:80:path=[fe80::1%2]").unwrap();
        assert_eq!(parsed.args, [word("[::1]", 3), word("80", 9)]);
        assert_eq!(parsed.keywords, [(word("path", 12), word("[fe80::1%2]", 17))]);
    }

    #[test]
    fn brackets_elsewhere_mean_nothing() {
        let parsed = EndpointString::parse(r"x:a[:\[b:c]").unwrap();
        assert_eq!(parsed.args, [word("a[", 3), word("[b", 6), word("c]", 10)]);
    }

    #[test]
    fn empty_words_are_words() {
        let parsed = EndpointString::parse("x::").unwrap();
        assert_eq!(parsed.args, [word("", 3), word("", 4)]);
        assert_eq!(EndpointString::parse(":").unwrap().kind(), "");
    }

    #[test]
    fn what_cannot_be_read_is_pointed_at() {
        assert_eq!(error(""), r#"it is empty; write something like "tcp:8000""#);
        assert_eq!(error("x:[::1"), r#"the bracket "[" (column 3) is not closed; write \[ for a plain one"#);
        assert_eq!(error(r"x:a\n"), r#""\n" (column 4) is no escape; those are \: \= \\ \[ and \]"#);
        assert_eq!(
            error(r"x:a\"),
            r"the backslash (column 4) has nothing behind it; write \\ for a plain one"
        );
        assert_eq!(
            error("x:on=yes:80"),
            "argument \"80\" (column 10) stands behind a keyword; \
             put it in front, or write \\: for a colon in a value"
        );
    }

    #[test]
    fn what_the_form_lacks_is_pointed_at() {
        assert_eq!(
            error("x:a:1:b"),
            "\"b\" (column 7) is one argument too many for x (host, port); in a value write \\: for a colon, \
             an IPv6 address may stand in brackets"
        );
        assert_eq!(
            error("x:a:1:pth=b"),
            r#"unknown keyword "pth" (column 7); the keywords here are host, on, path and port"#
        );
        assert_eq!(
            error("x:a:1:on=1:on=0"),
            r#"on (column 12) is given a second time; the first value is "1" (column 10)"#
        );
        assert_eq!(
            error("x:a:1:port=2"),
            r#"port (column 7) is given a second time; the first value is "1" (column 5)"#
        );
    }

    #[test]
    fn arguments_can_be_given_by_keyword() {
        let mut fields = fields("x:port=2:host=a").unwrap();
        assert_eq!(fields.word("host"), Some(word("a", 15)));
        assert_eq!(fields.word("port"), Some(word("2", 8)));
        assert_eq!(fields.word("port"), None);
    }

    #[test]
    fn control_characters_do_not_reach_the_log() {
        let error = EndpointString::parse("x\n\u{1b}").unwrap().unknown_kind("listening", &["tcp"]);
        assert_eq!(
            error.to_string(),
            r#"bad endpoint "x\n\u{1b}": unknown kind "x\n\u{1b}" (column 1); the kind for listening is tcp"#
        );
    }

    #[test]
    fn numbers_are_digits_within_a_range() {
        let limit: Limit<u16> = Limit { min: 1, max: 100, advice: "try 7" };
        let port = |source| fields(source).unwrap().number("port", &limit);
        assert_eq!(port("x:a:100").unwrap(), Some(100));
        assert_eq!(port("x:a:007").unwrap(), Some(7));
        assert_eq!(port("x:a").unwrap(), None);
        for bad in ["x:a:0", "x:a:101", "x:a:+1", "x:a:-1", "x:a: 1", "x:a:", "x:a:99999999999999999999"] {
            let error = port(bad).unwrap_err().to_string();
            assert!(error.ends_with("(column 5) is not a number from 1 to 100; try 7"), "{error}");
        }
    }

    #[test]
    fn seconds_can_have_a_fraction() {
        assert_eq!(seconds("2"), Some(Duration::from_secs(2)));
        assert_eq!(seconds("0.25"), Some(Duration::from_millis(250)));
        for bad in ["", ".5", "-1", "1e3", "inf", "nan", "1.2.3", "5s", "99999999999999999999999"] {
            assert_eq!(seconds(bad), None, "{bad}");
        }
    }

    #[test]
    fn addresses_can_stand_in_brackets_and_have_a_scope() {
        let read = |text| ip_address(text, 1).map(|address| address.to_string());
        assert_eq!(read("127.0.0.1").as_deref(), Some("127.0.0.1:1"));
        assert_eq!(read("::1").as_deref(), Some("[::1]:1"));
        assert_eq!(read("[::1]").as_deref(), Some("[::1]:1"));
        assert_eq!(read("[fe80::1%3]").as_deref(), Some("[fe80::1%3]:1"));
        for bad in ["", "[]", "[::1", "[127.0.0.1]", "::1]", "fe80::1%lo", "127.1", "localhost"] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }

    /// A generator of its own (xorshift): the parser has to end with an answer whatever it is given.
    #[test]
    fn any_text_is_read_or_refused() {
        let alphabet: Vec<char> = r":=\[]tcp6x0.%ä ".chars().collect();
        let mut state = 0x2545_F491_4F6C_DD1D_u64;
        for _ in 0..20_000 {
            let mut source = String::new();
            for _ in 0..12 {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                source.push(alphabet[(state % alphabet.len() as u64) as usize]);
            }
            if let Ok(parsed) = EndpointString::parse(&source) {
                let length = source.chars().count();
                let columns = parsed.args.iter().chain(parsed.keywords.iter().flat_map(|(n, v)| [n, v]));
                for word in columns {
                    assert!((1..=length + 1).contains(&word.column), "{source:?}: {word}");
                }
            }
        }
    }
}
