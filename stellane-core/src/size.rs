//! Sizes, as they are written in a configuration.

/// Such as `65536` or `64KiB`.
pub(crate) fn size(text: &str) -> Option<i64> {
    let size = text.parse::<bytesize::ByteSize>().ok()?;
    i64::try_from(size.as_u64()).ok()
}
