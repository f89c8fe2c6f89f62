//! Counted stacks and their three forms: lines, pprof and a flame graph.

use std::{
    collections::{BTreeMap, HashMap},
    fmt::Write,
    time::Duration,
};

/// How much belongs to each stack, outermost function first.
#[derive(Debug)]
pub(super) struct Stacks {
    samples: HashMap<Vec<String>, u64>,
    unit: Unit,
}

#[derive(Debug, Clone, Copy)]
enum Unit {
    /// Samples of running threads, this many per second of CPU time.
    Samples {
        frequency: i32,
        duration: Duration,
    },
    Bytes,
}

impl Stacks {
    /// Samples of running threads.
    pub(super) fn cpu(
        samples: HashMap<Vec<String>, u64>,
        frequency: i32,
        duration: Duration,
    ) -> Self {
        Self {
            samples,
            unit: Unit::Samples {
                frequency,
                duration,
            },
        }
    }

    /// Bytes of live memory.
    pub(super) fn bytes(samples: HashMap<Vec<String>, u64>) -> Self {
        Self {
            samples,
            unit: Unit::Bytes,
        }
    }

    fn total(&self) -> u64 {
        self.samples.values().sum()
    }

    /// `a;b;c 12`, the form that flame graph tools read.
    pub(super) fn folded(&self) -> String {
        let mut lines: Vec<_> = self
            .samples
            .iter()
            .map(|(stack, count)| format!("{} {count}\n", stack.join(";").replace('\n', " ")))
            .collect();
        lines.sort();
        lines.concat()
    }

    /// The protocol buffer that `go tool pprof` reads.
    pub(super) fn pprof(&self) -> Vec<u8> {
        let mut strings = Strings::default();
        let mut profile = Vec::new();
        // The kinds of value, and what one of ours is in each.
        let (kinds, period) = match self.unit {
            Unit::Samples { frequency, .. } => {
                let nanos = 1_000_000_000 / u64::try_from(frequency.max(1)).unwrap_or(1);
                (
                    vec![("samples", "count", 1), ("cpu", "nanoseconds", nanos)],
                    nanos,
                )
            }
            Unit::Bytes => (vec![("inuse_space", "bytes", 1)], 1),
        };
        let mut value_type = Vec::new();
        for (kind, unit, _) in &kinds {
            value_type.clear();
            put_number(&mut value_type, 1, strings.index(kind));
            put_number(&mut value_type, 2, strings.index(unit));
            put_bytes(&mut profile, 1, &value_type);
        }

        let mut functions = BTreeMap::<&str, u64>::new();
        for (stack, &count) in &self.samples {
            let mut sample = Vec::new();
            // Innermost first.
            for name in stack.iter().rev() {
                let next = functions.len() as u64 + 1;
                put_number(&mut sample, 1, *functions.entry(name).or_insert(next));
            }
            for (_, _, each) in &kinds {
                put_number(&mut sample, 2, count * each);
            }
            put_bytes(&mut profile, 2, &sample);
        }
        for (name, &id) in &functions {
            let (mut line, mut location, mut function) = (Vec::new(), Vec::new(), Vec::new());
            put_number(&mut line, 1, id);
            put_number(&mut location, 1, id);
            put_bytes(&mut location, 4, &line);
            put_bytes(&mut profile, 4, &location);
            put_number(&mut function, 1, id);
            put_number(&mut function, 2, strings.index(name));
            put_number(&mut function, 3, strings.index(name));
            put_bytes(&mut profile, 5, &function);
        }
        for text in strings.texts {
            put_bytes(&mut profile, 6, text.as_bytes());
        }
        if let Unit::Samples { duration, .. } = self.unit {
            put_number(
                &mut profile,
                10,
                u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX),
            );
        }
        put_bytes(&mut profile, 11, &value_type);
        put_number(&mut profile, 12, period);
        profile
    }

    /// A flame graph: width is time, depth is the call stack, the name shows under the pointer.
    pub(super) fn svg(&self, title: &str) -> String {
        const WIDTH: f64 = 1200.0;
        const ROW: f64 = 18.0;
        const TOP: f64 = 34.0;
        let total = self.total();
        let unit = match self.unit {
            Unit::Samples { .. } => "samples",
            Unit::Bytes => "bytes",
        };
        let mut root = Node::default();
        for (stack, &count) in &self.samples {
            root.add(stack, count);
        }
        let mut frames = String::new();
        let mut draw = vec![(&root, "all", 0.0, 0_usize)];
        let mut deepest = 0;
        while let Some((node, name, x, depth)) = draw.pop() {
            let width = node.count as f64 / total.max(1) as f64 * WIDTH;
            // Less than a pixel can't be read.
            if width < 0.5 {
                continue;
            }
            deepest = deepest.max(depth);
            let (y, percent) = (
                TOP + depth as f64 * ROW,
                node.count as f64 * 100.0 / total.max(1) as f64,
            );
            let name_shown = escape(name);
            let letters = ((width - 6.0) / 7.0).max(0.0) as usize;
            let short: String = if name.chars().count() <= letters {
                name.to_owned()
            } else {
                // The end of a path names the function.
                let skip = name.chars().count() - letters;
                name.chars().skip(skip).collect()
            };
            let _ = writeln!(
                frames,
                "<g><title>{name_shown} — {} {unit}, {percent:.1} %</title><rect x=\"{x:.1}\" y=\"{y}\" \
                 width=\"{width:.1}\" height=\"{}\" fill=\"{}\"/><text x=\"{:.1}\" y=\"{}\">{}</text></g>",
                node.count,
                ROW - 1.0,
                colour(name),
                x + 3.0,
                y + 13.0,
                if letters < 3 {
                    String::new()
                } else {
                    escape(&short)
                },
            );
            let mut at = x;
            for (name, child) in &node.children {
                draw.push((child, name, at, depth + 1));
                at += child.count as f64 / total.max(1) as f64 * WIDTH;
            }
        }
        let height = TOP + (deepest + 1) as f64 * ROW + 10.0;
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"monospace\" \
             font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n<text x=\"3\" y=\"20\">{}: \
             {total} {unit}</text>\n{frames}</svg>\n",
            escape(title)
        )
    }
}

#[derive(Default)]
struct Node<'a> {
    count: u64,
    children: BTreeMap<&'a str, Self>,
}

impl<'a> Node<'a> {
    fn add(&mut self, stack: &'a [String], count: u64) {
        let mut node = self;
        node.count += count;
        for name in stack {
            node = node.children.entry(name).or_default();
            node.count += count;
        }
    }
}

/// Warm, and the same for the same name.
fn colour(name: &str) -> String {
    let hash = name.bytes().fold(2_166_136_261_u32, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(16_777_619)
    });
    format!("hsl({},75%,{}%)", 10 + hash % 45, 62 + (hash >> 8) % 12)
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

/// The string table of a pprof profile; the first entry is empty.
struct Strings {
    texts: Vec<String>,
    indices: HashMap<String, u64>,
}

impl Default for Strings {
    fn default() -> Self {
        Self {
            texts: vec![String::new()],
            indices: HashMap::from([(String::new(), 0)]),
        }
    }
}

impl Strings {
    fn index(&mut self, text: &str) -> u64 {
        if let Some(&index) = self.indices.get(text) {
            return index;
        }
        let index = self.texts.len() as u64;
        self.texts.push(text.to_owned());
        self.indices.insert(text.to_owned(), index);
        index
    }
}

fn put_number(message: &mut Vec<u8>, field: u64, number: u64) {
    put_varint(message, field << 3);
    put_varint(message, number);
}

fn put_bytes(message: &mut Vec<u8>, field: u64, bytes: &[u8]) {
    put_varint(message, field << 3 | 2);
    put_varint(message, bytes.len() as u64);
    message.extend_from_slice(bytes);
}

fn put_varint(message: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        message.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    message.push(number as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stacks() -> Stacks {
        let stack = |names: &[&str]| {
            names
                .iter()
                .map(|name| (*name).to_owned())
                .collect::<Vec<_>>()
        };
        let samples = HashMap::from([
            (stack(&["main", "serve", "hot<&T>"]), 3),
            (stack(&["main", "serve"]), 1),
        ]);
        Stacks::cpu(samples, 100, Duration::from_secs(1))
    }

    #[test]
    fn lines_are_sorted_and_counted() {
        assert_eq!(stacks().folded(), "main;serve 1\nmain;serve;hot<&T> 3\n");
    }

    #[test]
    fn the_picture_names_each_function_with_its_share() {
        let svg = stacks().svg("test");
        assert!(
            svg.contains("hot&lt;&amp;T&gt; — 3 samples, 75.0 %"),
            "{svg}"
        );
        assert!(svg.contains("serve — 4 samples, 100.0 %"), "{svg}");
    }

    #[test]
    fn varints_are_those_of_protocol_buffers() {
        let mut message = Vec::new();
        put_number(&mut message, 1, 300);
        assert_eq!(message, [0x08, 0xac, 0x02]);
    }

    #[test]
    fn pprof_has_its_string_table_with_the_empty_string_first() {
        let profile = stacks().pprof();
        let table = [0x32, 0, 0x32, 7]
            .into_iter()
            .chain(*b"samples")
            .collect::<Vec<_>>();
        assert!(
            profile.windows(table.len()).any(|part| part == table),
            "{profile:?}"
        );
    }
}
