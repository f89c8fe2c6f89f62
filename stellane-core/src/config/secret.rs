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
/// passwords of URLs (`postgres://app:PASSWORD@db`) are replaced, the values of such keys in the query of one, and private
/// keys in PEM.
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
        let key = plain(key);
        let more = self.more.iter().map(String::as_str);
        WORDS.into_iter().chain(more).any(|word| key.contains(word))
    }

    /// The text without the secrets in its URLs.
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
        if text.contains(['?', '&']) && text.contains('=') {
            found.extend(self.in_queries(text));
        }
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

    fn in_queries<'a>(&'a self, text: &'a str) -> impl Iterator<Item = (usize, usize)> + 'a {
        text.match_indices(['?', '&']).filter_map(|(at, _)| {
            let rest = &text[at + 1..];
            let name =
                rest.find(|c: char| !c.is_ascii_alphanumeric() && !matches!(c, '_' | '-' | '.'))?;
            if !rest[name..].starts_with('=') || !self.is_secret(&rest[..name]) {
                return None;
            }
            let value = &rest[name + 1..];
            let ends = |c: char| {
                c.is_whitespace() || matches!(c, '&' | '#' | '"' | '\'' | '`' | '<' | '>')
            };
            let length = value.find(ends).unwrap_or(value.len());
            let from = at + 1 + name + 1;
            (length > 0).then_some((from, from + length))
        })
    }
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
