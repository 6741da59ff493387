//! Finds out which tensor of a GGUF file has a type that candle does not read.
//!
//! candle's own message has the number of the type alone. This walks the header only after candle gave
//! up, trusts nothing in it, and gives up itself wherever the header makes no sense.

use std::io::{Read, Seek, SeekFrom};

/// The first tensor of an unknown type, and the number of that type.
pub(super) fn first_unknown<R: Read + Seek>(reader: &mut R) -> Option<(String, u32)> {
    reader.seek(SeekFrom::Start(VERSION_AT)).ok()?;
    if read_u32(reader)? < FIRST_VERSION_WITH_LONG_COUNTS {
        return None;
    }
    let tensors = read_u64(reader)?;
    let entries = read_u64(reader)?;
    for _ in 0..entries {
        skip(reader, None)?; // the key, a string
        let kind = read_u32(reader)?;
        skip(reader, Some(kind))?;
    }
    for _ in 0..tensors {
        let name = read_text(reader)?;
        let dimensions = read_u32(reader)?;
        for _ in 0..dimensions {
            read_u64(reader)?;
        }
        let kind = read_u32(reader)?;
        if !KNOWN_TYPES.contains(&kind) {
            return Some((name, kind));
        }
        read_u64(reader)?; // where its numbers are
    }
    None
}

/// Skips a value of the metadata; `None` is a string, as is its own kind.
fn skip<R: Read + Seek>(reader: &mut R, kind: Option<u32>) -> Option<()> {
    let bytes = match kind.unwrap_or(STRING) {
        STRING => read_u64(reader)?,
        ARRAY => {
            let kind = read_u32(reader)?;
            let count = read_u64(reader)?;
            match width(kind) {
                Some(width) => count.checked_mul(width)?,
                None if kind == STRING => {
                    for _ in 0..count {
                        skip(reader, None)?;
                    }
                    0
                }
                None => return None,
            }
        }
        kind => width(kind)?,
    };
    reader.seek_relative(i64::try_from(bytes).ok()?).ok()
}

/// Bytes of a value of fixed width.
fn width(kind: u32) -> Option<u64> {
    match kind {
        0 | 1 | 7 => Some(1),
        2 | 3 => Some(2),
        4..=6 => Some(4),
        10..=12 => Some(8),
        _ => None,
    }
}

fn read_text<R: Read>(reader: &mut R) -> Option<String> {
    let length = read_u64(reader)?;
    if length > MAX_NAME {
        return None;
    }
    let mut bytes = vec![0; usize::try_from(length).ok()?];
    reader.read_exact(&mut bytes).ok()?;
    String::from_utf8(bytes).ok()
}

fn read_u32<R: Read>(reader: &mut R) -> Option<u32> {
    let mut bytes = [0; 4];
    reader.read_exact(&mut bytes).ok()?;
    Some(u32::from_le_bytes(bytes))
}

fn read_u64<R: Read>(reader: &mut R) -> Option<u64> {
    let mut bytes = [0; 8];
    reader.read_exact(&mut bytes).ok()?;
    Some(u64::from_le_bytes(bytes))
}

const VERSION_AT: u64 = 4;
const FIRST_VERSION_WITH_LONG_COUNTS: u32 = 2;
const STRING: u32 = 8;
const ARRAY: u32 = 9;
const MAX_NAME: u64 = 1 << 16;

/// The tensor types candle reads, by their number in the format.
const KNOWN_TYPES: &[u32] = &[0, 1, 2, 3, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 30];
