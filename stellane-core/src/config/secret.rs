//! The one place that decides what is never shown: of configurations, of their errors and differences, and in the log.

use std::{borrow::Cow, fmt, sync::Arc};

use serde::Serialize;
use toml::{Table, Value};

/// Words that make a key look like that of a secret, in lower case and without what separates words.
const WORDS: [&str; 13] = [
    "accesskey",
    "apikey",
    "authorization",
    "cookie",
    "credential",
    "passphrase",
    "passwd",
    "password",
    "privatekey",
    "pwd",
    "secret",
    "signingkey",
    "token",
];

/// Which keys hold secrets, and what is shown in their place: `<redacted>`.
///
/// A key is one if it contains `access_key`, `api_key`, `authorization`, `cookie`, `credential`, `passphrase`, `passwd`,
/// `password`, `private_key`, `pwd`, `secret`, `signing_key` or `token`, in any case and however its words are separated,
/// or one of the words that were added. Values that are `true` or `false`, or empty, are shown. In every text the
/// passwords of URLs (`postgres://app:PASSWORD@db`) are replaced, private keys in PEM, and what stands beside such a key:
/// in the query of a URL, as `api-key=VALUE`, as `"authorization": "VALUE"`, as `password = "VALUE"`.
///
/// It is what `/config`, [`Reload`](super::Reload), [`ConfigErrors`](super::ConfigErrors) and the `Debug` and `Display` of
/// a [`RuntimeConfig`](super::RuntimeConfig) go through, and each line of [`logging`](crate::logging); there
/// [`log.redact`](super::LogConfig::redact) adds words. For pages and lines of one's own:
///
/// ```
/// use stellane_core::config::Secrets;
///
/// let secrets = Secrets::default().and(["license"]);
/// assert!(secrets.is_secret("billing.licenseText") && secrets.is_secret("x-api-key"));
/// assert_eq!(secrets.text("at redis://:hunter2@cache/0"), "at redis://:<redacted>@cache/0");
/// ```
#[derive(Debug, Clone, Default)]
pub struct Secrets {
    more: Arc<[String]>,
}

impl Secrets {
    /// What stands in the place of a secret.
    pub const REDACTED: &'static str = "<redacted>";

    /// With more words.
    #[must_use]
    pub fn and(self, words: impl IntoIterator<Item = impl AsRef<str>>) -> Self {
        let words = words.into_iter().map(|word| plain(word.as_ref()));
        let more = self.more.iter().cloned().chain(words);
        Self {
            more: more.filter(|word| !word.is_empty()).collect(),
        }
    }

    /// Whether what stands under this key, or anywhere below it, is not to be shown.
    #[must_use]
    pub fn is_secret(&self, key: &str) -> bool {
        // Each name in a line of a log is asked for.
        let (short, long);
        let key = match plain_ascii(key) {
            Some((letters, length)) => {
                short = letters;
                &short[..length]
            }
            None => {
                long = plain(key);
                long.as_bytes()
            }
        };
        let contains = |word: &String| key.windows(word.len()).any(|part| part == word.as_bytes());
        let begins = |(at, pair): (usize, &[u8])| {
            SECOND_LETTERS[usize::from(pair[0])] & second_letter(pair[1]) != 0
                && WORDS
                    .iter()
                    .any(|word| key[at..].starts_with(word.as_bytes()))
        };
        key.windows(2).enumerate().any(begins) || self.more.iter().any(contains)
    }

    /// The text without its secrets.
    #[must_use]
    pub fn text<'a>(&self, text: &'a str) -> Cow<'a, str> {
        let found = self.within(text);
        if found.is_empty() {
            return Cow::Borrowed(text);
        }
        let mut shown = String::with_capacity(text.len());
        let mut end = 0;
        for (from, to) in found {
            shown.push_str(&text[end..from]);
            shown.push_str(Self::REDACTED);
            end = to;
        }
        shown.push_str(&text[end..]);
        Cow::Owned(shown)
    }

    /// A value of this key as it may be shown.
    pub(crate) fn value<'a>(&self, key: &str, value: &'a str) -> Cow<'a, str> {
        match value {
            "" | "\"\"" | "true" | "false" => Cow::Borrowed(value),
            _ if self.is_secret(key) => Cow::Borrowed(Self::REDACTED),
            _ => self.text(value),
        }
    }

    pub(crate) fn redact(&self, table: &mut Table) {
        for (key, value) in table {
            self.redact_value(self.is_secret(key), value);
        }
    }

    fn redact_value(&self, is_secret: bool, value: &mut Value) {
        match value {
            Value::Table(table) if is_secret => {
                for (_, value) in table {
                    self.redact_value(true, value);
                }
            }
            Value::Table(table) => self.redact(table),
            Value::Boolean(_) => {}
            Value::Array(values) if !is_secret => {
                for value in values {
                    self.redact_value(false, value);
                }
            }
            Value::String(text) if text.is_empty() => {}
            value if is_secret => *value = Value::String(Self::REDACTED.to_owned()),
            Value::String(text) => {
                if let Cow::Owned(shown) = self.text(text) {
                    *text = shown;
                }
            }
            _ => {}
        }
    }

    /// Where the secrets are, in their order.
    fn within(&self, text: &str) -> Vec<(usize, usize)> {
        let mut found = Vec::new();
        let mut start = 0;
        while let Some(at) = text[start..].find("://") {
            let url = start + at + 3;
            let ends = |c: char| {
                c.is_whitespace() || matches!(c, '"' | '\'' | '`' | '<' | '>' | '|' | '\\')
            };
            let end = text[url..].find(ends).map_or(text.len(), |n| url + n);
            found.extend(user_info(&text[url..end]).map(|(from, to)| (url + from, url + to)));
            start = url;
        }
        let mut start = 0;
        while let Some(at) = text[start..].find("PRIVATE KEY-----") {
            let from = start + at + "PRIVATE KEY-----".len();
            let to = text[from..]
                .find("-----END")
                .map_or(text.len(), |n| from + n);
            found.push((from, to));
            start = to
                + text[to..]
                    .find("KEY-----")
                    .map_or(0, |n| n + "KEY-----".len());
        }
        found.extend(self.in_pairs(text));
        if found.len() > 1 {
            found.sort_unstable();
            // A password may hold what looks like a query.
            let mut last = 0;
            found.retain(|(from, to)| {
                let apart = *from >= last;
                last = last.max(*to);
                apart
            });
        }
        found
    }

    /// Values beside a name that looks secret: in the query of a URL, in `api-key=x`, in `"authorization": "Bearer x"` as
    /// JSON and the `Debug` of headers and structs write it, in `password = "x"`.
    fn in_pairs<'a>(&'a self, text: &'a str) -> impl Iterator<Item = (usize, usize)> + 'a {
        text.match_indices(['=', ':']).filter_map(|(at, sign)| {
            let before = text[..at].trim_end_matches([' ', '"', '\'', '\\']);
            let is_of_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
            let (lead, name) = before.split_at(before.trim_end_matches(is_of_name).len());
            if name.is_empty() || !self.is_secret(name) {
                return None;
            }
            let after = &text[at + 1..];
            let rest = after.trim_start_matches(' ');
            // In a sentence a colon is no more than that: `unexpected token: "}"`.
            let lead = lead.trim_end_matches(char::is_whitespace);
            let is_pair =
                sign == "=" || lead.is_empty() || lead.ends_with(['"', '\'', '{', '(', '[', ',']);
            let is_bare = sign == "=" && before.len() == at && rest.len() == after.len();
            let (skipped, length) = match rest.as_bytes() {
                [quote @ (b'"' | b'\''), ..] if is_pair => (1, quoted(&rest[1..], *quote)),
                [b'\\', b'"', ..] if is_pair => {
                    (2, rest[2..].find("\\\"").unwrap_or(rest.len() - 2))
                }
                _ if is_bare && !is_no_secret(name, word(rest)) => (0, word(rest).len()),
                _ => {
                    let scheme = ["bearer ", "basic "].into_iter().find(|scheme| {
                        let start = rest.get(..scheme.len());
                        start.is_some_and(|start| start.eq_ignore_ascii_case(scheme))
                    })?;
                    (scheme.len(), word(&rest[scheme.len()..]).len())
                }
            };
            let from = text.len() - rest.len() + skipped;
            (length > 0).then_some((from, from + length))
        })
    }
}

/// How long a text is that ends with this quote.
fn quoted(text: &str, quote: u8) -> usize {
    let mut escaped = false;
    let end = text.bytes().position(|byte| {
        let is_end = byte == quote && !escaped;
        escaped = byte == b'\\' && !escaped;
        is_end
    });
    end.unwrap_or(text.len())
}

/// What ends no later than a value does that has no quotes.
fn word(text: &str) -> &str {
    let ends = |c: char| {
        c.is_whitespace()
            || matches!(
                c,
                '&' | '#' | '"' | '\'' | '`' | '<' | '>' | ',' | ';' | ')' | ']' | '}'
            )
    };
    &text[..text.find(ends).unwrap_or(text.len())]
}

/// A switch, or how many there were.
fn is_no_secret(name: &str, value: &str) -> bool {
    let is_count = name.to_ascii_lowercase().ends_with("tokens");
    matches!(value, "true" | "false") || is_count && value.bytes().all(|byte| byte.is_ascii_digit())
}

/// Where a URL, of which this is what comes after `://`, has its password; or its user, if that is all there is, since it
/// may be a token.
fn user_info(url: &str) -> Option<(usize, usize)> {
    let authority = url.find(['/', '?', '#']).unwrap_or(url.len());
    let at = match url[..authority].rfind('@') {
        Some(at) => at,
        None => {
            // What is no port is a password with a `/` in it, which nobody has escaped.
            let (_, port) = url[..authority].rsplit_once(':')?;
            let is_port = port.bytes().all(|byte| byte.is_ascii_digit()) || port.ends_with(']');
            (!is_port).then(|| url.rfind('@'))??
        }
    };
    match url[..at].find(':') {
        Some(colon) if colon + 1 < at => Some((colon + 1, at)),
        Some(colon) => (colon > 0).then_some((0, colon)),
        None => (at > 0).then_some((0, at)),
    }
}

/// By the first letter of a word, of [`WORDS`]: its second letters, a bit each.
const SECOND_LETTERS: [u32; 256] = {
    let (mut letters, mut at) = ([0; 256], 0);
    while at < WORDS.len() {
        let word = WORDS[at].as_bytes();
        letters[word[0] as usize] |= second_letter(word[1]);
        at += 1;
    }
    letters
};

/// A digit is taken for one of them, which does no harm.
const fn second_letter(byte: u8) -> u32 {
    1 << (byte & 31)
}

/// What [`plain`] makes of a short key, and how long that is.
fn plain_ascii(key: &str) -> Option<([u8; 48], usize)> {
    let (mut letters, mut length) = ([0; 48], 0);
    for byte in key.bytes() {
        if byte.is_ascii_alphanumeric() {
            *letters.get_mut(length)? = byte.to_ascii_lowercase();
            length += 1;
        } else if !byte.is_ascii() {
            return None;
        }
    }
    Some((letters, length))
}

/// A key as words are looked for in it.
fn plain(key: &str) -> String {
    let letters = key.chars().filter(|c| c.is_alphanumeric());
    letters.flat_map(char::to_lowercase).collect()
}

/// A section without its secrets.
pub(crate) fn shown(section: &impl Serialize, secrets: &Secrets) -> Table {
    let mut table = Table::try_from(section).unwrap_or_default();
    secrets.redact(&mut table);
    table
}

/// `Debug` of a section.
pub(super) fn debug(
    name: &str,
    section: &impl Serialize,
    f: &mut fmt::Formatter<'_>,
) -> fmt::Result {
    write!(f, "{name} {{\n{}}}", shown(section, &Secrets::default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_is_found_wherever_it_stands() {
        let secrets = Secrets::default().and(["license"]);
        let long = "x".repeat(60);
        for word in WORDS.into_iter().chain(["license"]) {
            for key in [
                word.to_owned(),
                word.to_uppercase(),
                format!("a-{word}_of.p"),
                format!("é{word}"),
                format!("{long}{word}"),
            ] {
                assert!(secrets.is_secret(&key), "{key}");
            }
            let (first, cut) = (&word[..1], &word[1..]);
            assert!(
                !secrets.is_secret(cut) && !secrets.is_secret(first),
                "{cut}"
            );
        }
        assert!(!secrets.is_secret("") && !secrets.is_secret("http.route"));
    }

    #[test]
    fn passwords_of_urls_are_replaced_and_nothing_else() {
        for (text, expected) in [
            (
                "postgres://app:hunter2@db:5432/x",
                "postgres://app:<redacted>@db:5432/x",
            ),
            ("redis://:hunter2@cache", "redis://:<redacted>@cache"),
            (
                "https://hunter2@github.com/a",
                "https://<redacted>@github.com/a",
            ),
            ("https://hunter2:@api", "https://<redacted>:@api"),
            (
                "a://u:p@ss@h b://u:q@h",
                "a://u:<redacted>@h b://u:<redacted>@h",
            ),
            ("db://u:pa/ss@h/x", "db://u:<redacted>@h/x"),
            ("`amqp://u:p@h`: no", "`amqp://u:<redacted>@h`: no"),
            (
                "GET /x?a=1&api_key=hunter2&b=2",
                "GET /x?a=1&api_key=<redacted>&b=2",
            ),
            ("http://u:p?token=x@h/", "http://u:<redacted>@h/"),
            ("http://ü:ß@h", "http://ü:<redacted>@h"),
            (
                "-----BEGIN EC PRIVATE KEY-----\nab\n-----END EC PRIVATE KEY-----, cut",
                "-----BEGIN EC PRIVATE KEY-----<redacted>-----END EC PRIVATE KEY-----, cut",
            ),
            (
                "-----BEGIN PRIVATE KEY-----ab",
                "-----BEGIN PRIVATE KEY-----<redacted>",
            ),
            // As headers, maps and structs are shown.
            (
                r#"{"authorization": "Bearer hunter2", "host": "x"}"#,
                r#"{"authorization": "<redacted>", "host": "x"}"#,
            ),
            (
                r#"{"api_key":"a\"b","n":1}"#,
                r#"{"api_key":"<redacted>","n":1}"#,
            ),
            (
                r#"{\"password\":\"hunter2\",\"n\":1}"#,
                r#"{\"password\":\"<redacted>\",\"n\":1}"#,
            ),
            (
                r#"Db { user: "u", password: "hunter2" }"#,
                r#"Db { user: "u", password: "<redacted>" }"#,
            ),
            ("passwd = 'hunter2' # x", "passwd = '<redacted>' # x"),
            ("token = \"hunter2", "token = \"<redacted>"),
            (
                "authorization: Bearer hunter2\r\n",
                "authorization: Bearer <redacted>\r\n",
            ),
            (
                "Authorization: basic aHVudGVyMg==",
                "Authorization: basic <redacted>",
            ),
            (
                "OTEL_EXPORTER_OTLP_HEADERS=api-key=hunter2,x=y",
                "OTEL_EXPORTER_OTLP_HEADERS=api-key=<redacted>,x=y",
            ),
            ("connect(password=hunter2)", "connect(password=<redacted>)"),
        ] {
            assert_eq!(Secrets::default().text(text), expected);
        }
        for text in [
            "http://127.0.0.1:3000/a@b",
            "http://[::1]:80/a@b",
            "http://[::1]/a@b",
            "mail a@b.c about http://x/y",
            "://",
            "://@",
            "a?token=",
            "why? token = x",
            "/?page=2&sort=name",
            r#"unexpected token: "}""#,
            "tokens=4711 of 8000, has_password=true",
            "my::token::parse: at 3",
            "secret: it stays",
            "",
        ] {
            assert_eq!(Secrets::default().text(text), text);
        }
    }

    #[test]
    fn a_section_with_a_secret_name_shows_switches_alone() {
        let mut table: Table =
            "[db.credentials]\nuser = 'u'\non = true\nn = 7\nnone = ''\nlist = ['x']\n\
             [[listen]]\naddress = 'http://u:p@h'\nPrivate-Key = 'k'"
                .parse()
                .expect("parses");
        Secrets::default().redact(&mut table);
        let expected: Table = "[db.credentials]\nuser = '<redacted>'\non = true\nn = '<redacted>'\nnone = ''\n\
             list = '<redacted>'\n[[listen]]\naddress = 'http://u:<redacted>@h'\nPrivate-Key = '<redacted>'"
            .parse()
            .expect("parses");
        assert_eq!(table, expected);
    }
}
