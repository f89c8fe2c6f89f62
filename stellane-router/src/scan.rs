//! Looking at short texts a word at a time: a call to `memchr` or `memcmp` costs more than most
//! segments are long.

const LOW: u64 = 0x0101_0101_0101_0101;

/// Where `byte` first stands in `text`, or its length.
#[inline]
pub(crate) fn find(byte: u8, text: &[u8]) -> usize {
    let wanted = LOW * u64::from(byte);
    let mut at = 0;
    while at + 8 <= text.len() {
        if at == 32 {
            return memchr::memchr(byte, &text[at..]).map_or(text.len(), |more| at + more);
        }
        // Zero where the byte stands. The lowest zero is found exactly; what borrows makes of those
        // above it does not matter.
        let zero = word(text, at) ^ wanted;
        let found = zero.wrapping_sub(LOW) & !zero & (LOW << 7);
        if found != 0 {
            return at + (found.trailing_zeros() / 8) as usize;
        }
        at += 8;
    }
    while at < text.len() && text[at] != byte {
        at += 1;
    }
    at
}

/// Whether a part of a text is ASCII without `%`; `false` if it is none of it.
#[inline]
pub(crate) fn is_plain(text: &[u8], start: usize, end: usize) -> bool {
    const PERCENT: u64 = LOW * b'%' as u64;
    let odd = |word: u64| {
        let zero = word ^ PERCENT;
        zero.wrapping_sub(LOW) & !zero | word
    };
    let (Some(head), Some(len)) = (text.get(..end), end.checked_sub(start)) else {
        return false;
    };
    if len < 8
        && let Some(last) = head.last_chunk()
    {
        // What stands before the part is shifted out, which may be all.
        let part = (u64::from_le_bytes(*last) >> 1) >> (63 - 8 * len);
        return odd(part) & (LOW << 7) == 0;
    }
    let part = &head[start..];
    if len < 8 {
        return part.iter().all(|b| b.is_ascii() && *b != b'%');
    }
    // The last word overlaps the one before it.
    let mut all = odd(word(part, len - 8));
    let mut at = 0;
    while at + 8 < len {
        all |= odd(word(part, at));
        at += 8;
    }
    all & (LOW << 7) == 0
}

/// Eight bytes of a text from a place on, zeros where it has ended.
#[inline]
pub(crate) fn word_from(text: &[u8], at: usize) -> u64 {
    let left = text.get(at..).unwrap_or_default();
    match left.first_chunk() {
        Some(bytes) => u64::from_le_bytes(*bytes),
        None => last_word(text, left.len()),
    }
}

/// The last bytes of a text, less than eight.
#[inline(never)]
fn last_word(text: &[u8], len: usize) -> u64 {
    if let Some(last) = text.last_chunk() {
        // What stands before them is shifted out, which may be all.
        return (u64::from_le_bytes(*last) >> 1) >> (63 - 8 * len);
    }
    let bytes = text.iter().rev().take(len);
    bytes.fold(0, |word, byte| word << 8 | u64::from(*byte))
}

/// `text.starts_with(literal)`.
#[inline]
pub(crate) fn begins(text: &[u8], literal: &[u8]) -> bool {
    let len = literal.len();
    let Some(head) = text.get(..len) else {
        return false;
    };
    // Two words that overlap hold all of it.
    match len {
        0 => true,
        1 => head[0] == literal[0],
        2..4 => head[0] == literal[0] && head[1] == literal[1] && head[len - 1] == literal[len - 1],
        4..8 => half(head, 0) == half(literal, 0) && half(head, len - 4) == half(literal, len - 4),
        8..=16 => {
            word(head, 0) == word(literal, 0) && word(head, len - 8) == word(literal, len - 8)
        }
        _ => head == literal,
    }
}

/// A hash of the length and the ends of a text: what differs in the middle only has the same.
#[inline]
pub(crate) fn digest(text: &[u8]) -> u64 {
    let len = text.len();
    let (head, tail) = match len {
        0 => (0, 0),
        1..4 => (u64::from(text[0]), u64::from(text[len - 1])),
        4..8 => (half(text, 0).into(), half(text, len - 4).into()),
        _ => (word(text, 0), word(text, len - 8)),
    };
    let mixed = (head ^ tail.rotate_left(29)).wrapping_add(len as u64);
    mixed.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// A hash of all of a text.
#[inline]
pub(crate) fn hash(text: &[u8]) -> u64 {
    const MIX: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut hash = digest(text);
    let mut at = 8;
    while at + 8 < text.len() {
        hash = (hash.rotate_left(23) ^ word(text, at)).wrapping_mul(MIX);
        at += 8;
    }
    hash
}

#[inline]
fn half(text: &[u8], at: usize) -> u32 {
    let mut bytes = [0; 4];
    bytes.copy_from_slice(&text[at..at + 4]);
    u32::from_le_bytes(bytes)
}

#[inline]
fn word(text: &[u8], at: usize) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&text[at..at + 8]);
    u64::from_le_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_agree_with_the_standard_library() {
        let mut rng = fastrand::Rng::with_seed(7);
        for _ in 0..if cfg!(miri) { 200 } else { 20_000 } {
            let text: Vec<u8> = (0..rng.usize(0..50))
                .map(|_| *b"/.0\xaf\x80")
                .map(|c| c[rng.usize(0..5)])
                .collect();
            let expected = text.iter().position(|&b| b == b'/').unwrap_or(text.len());
            assert_eq!(find(b'/', &text), expected, "{text:?}");
            let mut odd = text.clone();
            odd.retain(|b| b.is_ascii());
            let start = rng.usize(0..=odd.len());
            assert!(is_plain(&odd, start, odd.len()), "{odd:?}");
            assert!(!is_plain(&odd, start, odd.len() + 1));
            if !odd.is_empty() {
                let at = rng.usize(0..odd.len());
                odd[at] = if rng.bool() { b'%' } else { 0x80 | rng.u8(..) };
                assert_eq!(is_plain(&odd, start, odd.len()), at < start, "{odd:?}");
            }
            let mut literal = text[..rng.usize(0..=text.len())].to_vec();
            if let (Some(byte), true) = (literal.last_mut(), rng.bool()) {
                *byte = b'x';
            }
            assert_eq!(
                begins(&text, &literal),
                text.starts_with(&literal),
                "{text:?} {literal:?}"
            );
        }
    }
}
