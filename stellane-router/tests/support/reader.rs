//! A naive reader of the rule in the crate's documentation: one template at a time, character by
//! character, every way tried. It shares no code with the crate.

/// What one template makes of a path.
#[derive(Debug, Clone)]
pub(crate) struct Reading<'t> {
    pub(crate) template: &'t str,
    pub(crate) values: Vec<String>,
    /// Another template fits too, and nothing prefers one.
    pub(crate) ambiguous: bool,
}

/// One step of a reading; of two readings the one whose steps are smaller is preferred.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    /// A literal byte.
    Text,
    /// A parameter: the longer the text after it the better, one that ends the segment before one that
    /// does not, the narrower the better; then, which of its places it took. What is spelled out there
    /// tells two parameters apart and prefers none.
    Param {
        tail: std::cmp::Reverse<(usize, bool)>,
        rank: usize,
        spelled: String,
        place: usize,
    },
    /// Several segments before more: `+` before `*`, then the fewer the better.
    Wild { may_be_empty: bool, len: usize },
    /// The rest.
    Rest { may_be_empty: bool },
}

/// The preferred of the templates that fit a path, which is first brought to canonical form.
pub(crate) fn best<'t>(templates: &'t [String], path: &str) -> Option<Reading<'t>> {
    let path = canonical(path)?;
    let mut readings: Vec<_> = templates
        .iter()
        .filter_map(|template| {
            read(template, &path).map(|(steps, values)| (steps, values, template))
        })
        .collect();
    readings.sort_by(|a, b| a.0.cmp(&b.0));
    let mut readings = readings.into_iter();
    let (steps, values, template) = readings.next()?;
    let ambiguous = readings.any(|(other, ..)| {
        let different = steps.iter().zip(&other).find(|(a, b)| a != b);
        match different {
            Some((
                Step::Param {
                    tail,
                    rank,
                    spelled,
                    ..
                },
                Step::Param {
                    tail: other,
                    rank: other_rank,
                    spelled: other_spelled,
                    ..
                },
            )) => (tail, rank) == (other, other_rank) && spelled != other_spelled,
            Some(_) => false,
            None => steps.len() == other.len(),
        }
    });
    Some(Reading {
        template,
        values,
        ambiguous,
    })
}

pub(crate) fn fits(template: &str, path: &str) -> bool {
    canonical(path).is_some_and(|path| read(template, &path).is_some())
}

/// Unreserved characters and `|^"{}[]\` as they are, what is not ASCII escaped, hex digits in upper case.
pub(crate) fn canonical(path: &str) -> Option<String> {
    let mut out = String::new();
    let mut bytes = path.bytes();
    while let Some(byte) = bytes.next() {
        let byte = match byte {
            b'%' => {
                let digits = [bytes.next()?, bytes.next()?];
                let digits = std::str::from_utf8(&digits).ok()?.to_owned();
                if !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
                    return None;
                }
                let byte = u8::from_str_radix(&digits, 16).ok()?;
                if !byte.is_ascii_alphanumeric() && !b"-._~|^\"{}[]\\".contains(&byte) {
                    out.push_str(&format!("%{byte:02X}"));
                    continue;
                }
                byte
            }
            byte if !byte.is_ascii() => {
                out.push_str(&format!("%{byte:02X}"));
                continue;
            }
            byte => byte,
        };
        out.push(char::from(byte));
    }
    Some(out)
}

/// A literal of a template: as a path, and what no URI holds escaped.
fn literal(text: &str) -> String {
    let escaped: String = text
        .chars()
        .map(|c| match c {
            ' ' | '<' | '>' | '`' => format!("%{:02X}", c as u32),
            c => c.to_string(),
        })
        .collect();
    canonical(&escaped).expect("a template has no malformed escape")
}

enum Token {
    Text(String),
    Param {
        constraint: String,
        tail: String,
        infix: bool,
    },
    Several {
        may_be_empty: bool,
        ends: bool,
    },
}

fn tokens(template: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut rest = template;
    while !rest.is_empty() {
        let Some(inside) = rest.strip_prefix('{') else {
            let end = rest.find('{').unwrap_or(rest.len());
            tokens.push(Token::Text(literal(&rest[..end])));
            rest = &rest[end..];
            continue;
        };
        let (inside, after) = inside.split_once('}').expect("closed");
        rest = after;
        if inside.starts_with(['*', '+']) {
            tokens.push(Token::Several {
                may_be_empty: inside.starts_with('*'),
                ends: rest.is_empty(),
            });
            continue;
        }
        let tail = &rest[..rest.find(['/', '{']).unwrap_or(rest.len())];
        rest = &rest[tail.len()..];
        let constraint = inside.split_once(':').map_or("", |(_, c)| c);
        tokens.push(Token::Param {
            constraint: constraint.to_owned(),
            tail: literal(tail),
            infix: rest.starts_with('{'),
        });
    }
    tokens
}

type Steps = (Vec<Step>, Vec<String>);

fn read(template: &str, path: &str) -> Option<Steps> {
    go(&tokens(template), path)
}

/// The first way in which the tokens fit, the preferred places of each parameter first.
fn go(tokens: &[Token], path: &str) -> Option<Steps> {
    let Some((token, after)) = tokens.split_first() else {
        return path.is_empty().then(Steps::default);
    };
    let then = |steps: Vec<Step>, value: Option<&str>, rest: Option<Steps>| {
        rest.map(|(more, values)| {
            let value = value.map(str::to_owned);
            (
                [steps, more].concat(),
                value.into_iter().chain(values).collect(),
            )
        })
    };
    match token {
        Token::Text(text) => {
            let rest = path.strip_prefix(text.as_str())?;
            then(vec![Step::Text; text.len()], None, go(after, rest))
        }
        Token::Several {
            may_be_empty,
            ends: true,
        } => {
            let step = Step::Rest {
                may_be_empty: *may_be_empty,
            };
            let enough = *may_be_empty || !path.is_empty();
            then(vec![step], Some(path), enough.then(Steps::default))
        }
        Token::Several {
            may_be_empty,
            ends: false,
        } => {
            let least = usize::from(!may_be_empty);
            path.match_indices('/')
                .map(|(end, _)| end)
                .filter(|end| *end >= least)
                .find_map(|len| {
                    let step = Step::Wild {
                        may_be_empty: *may_be_empty,
                        len,
                    };
                    then(vec![step], Some(&path[..len]), go(after, &path[len..]))
                })
        }
        Token::Param {
            constraint,
            tail,
            infix,
        } => {
            let segment = path.split('/').next()?;
            let ends: Vec<usize> = if *infix {
                let all: Vec<usize> = (1..segment.len())
                    .filter(|i| segment[*i..].starts_with(tail.as_str()))
                    .collect();
                let mut places: Vec<usize> =
                    all.last().into_iter().chain(all.first()).copied().collect();
                places.dedup();
                places
            } else {
                segment
                    .strip_suffix(tail.as_str())
                    .map(str::len)
                    .into_iter()
                    .collect()
            };
            let place = |(place, len): (usize, usize)| {
                let value = &segment[..len];
                if value.is_empty() || !accepts(constraint, value) {
                    return None;
                }
                let step = Step::Param {
                    tail: std::cmp::Reverse((tail.len(), !infix)),
                    rank: rank(constraint),
                    spelled: format!("{tail} {constraint}"),
                    place,
                };
                let text = vec![Step::Text; tail.len()];
                then(
                    [vec![step], text].concat(),
                    Some(value),
                    go(after, &path[len + tail.len()..]),
                )
            };
            ends.into_iter().enumerate().find_map(place)
        }
    }
}

/// From narrow to wide.
fn rank(constraint: &str) -> usize {
    let kinds = [
        "one(", "uuid", "date", "u32", "u64", "i64", "hex", "alpha", "alnum", "len(",
    ];
    kinds
        .iter()
        .position(|kind| constraint.starts_with(kind))
        .unwrap_or(kinds.len())
}

fn accepts(constraint: &str, value: &str) -> bool {
    let inside = |kind: &str| {
        constraint
            .strip_prefix(kind)
            .and_then(|c| c.strip_suffix(')'))
    };
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if let Some(options) = inside("one(") {
        return options.split('|').any(|option| literal(option) == value);
    }
    if let Some(bounds) = inside("len(") {
        let (least, most) = bounds.split_once("..").expect("two bounds");
        let len = percent_encoding::percent_decode_str(value)
            .decode_utf8_lossy()
            .chars()
            .count();
        return (least.parse().expect("a number")..=most.parse().expect("a number")).contains(&len);
    }
    match constraint {
        "" => true,
        "u32" => digits(value) && value.parse::<u32>().is_ok(),
        "u64" => digits(value) && value.parse::<u64>().is_ok(),
        "i64" => digits(value.strip_prefix('-').unwrap_or(value)) && value.parse::<i64>().is_ok(),
        "hex" => value.bytes().all(|b| b.is_ascii_hexdigit()),
        "alpha" => value.bytes().all(|b| b.is_ascii_alphabetic()),
        "alnum" => value.bytes().all(|b| b.is_ascii_alphanumeric()),
        "date" => {
            let parts: Vec<&str> = value.split('-').collect();
            let [year, month, day] = parts[..] else {
                return false;
            };
            let lens = (year.len(), month.len(), day.len()) == (4, 2, 2);
            let number = |text: &str| text.parse::<usize>().expect("digits");
            lens && digits(&parts.concat()) && (1..=12).contains(&number(month)) && {
                let year = number(year);
                let leap = year.is_multiple_of(400)
                    || (year.is_multiple_of(4) && !year.is_multiple_of(100));
                let february = if leap { 29 } else { 28 };
                let days = [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
                (1..=days[number(month) - 1]).contains(&number(day))
            }
        }
        "uuid" => {
            let groups: Vec<usize> = value.split('-').map(str::len).collect();
            groups == [8, 4, 4, 4, 12] && value.bytes().all(|b| b == b'-' || b.is_ascii_hexdigit())
        }
        other => panic!("unknown {other}"),
    }
}
