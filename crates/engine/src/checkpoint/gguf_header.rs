//! Walks a GGUF file's header before and after candle reads it, for what candle does not say or expects to be right.
//!
//! candle divides by the alignment that a file names, and its message about an unknown type has the number of the
//! type alone. This trusts nothing in the header, and gives up wherever it makes no sense: then candle finds that too.

use std::io::{Read, Seek, SeekFrom};

/// What is wrong with the header that candle would not survive.
pub(super) fn problem<R: Read + Seek>(reader: &mut R) -> Option<String> {
    let mut header = Header::begin(reader)?;
    let _ = header.length()?; // tensors
    for _ in 0..header.length()? {
        let length = header.length()?;
        if length > MAX_NAME {
            return Some(format!("a key of its metadata has {length} bytes"));
        }
        let key = header.text(length)?;
        let kind = header.u32()?;
        // As candle does, which finds zeros behind a text where there should be none.
        if key.trim_end_matches('\0') != ALIGNMENT {
            header.skip(kind, 0)?;
            continue;
        }
        let width = width(kind)?;
        let value = header.bytes(width)?;
        if value.iter().all(|byte| *byte == 0) {
            return Some(format!("`{ALIGNMENT}` is 0"));
        }
    }
    None
}

/// The first tensor of an unknown type, and the number of that type.
pub(super) fn first_unknown<R: Read + Seek>(reader: &mut R) -> Option<(String, u32)> {
    let mut header = Header::begin(reader)?;
    let tensors = header.length()?;
    for _ in 0..header.length()? {
        header.skip(STRING, 0)?; // the key
        let kind = header.u32()?;
        header.skip(kind, 0)?;
    }
    for _ in 0..tensors {
        let length = header.length().filter(|length| *length <= MAX_NAME)?;
        let name = header.text(length)?;
        let dimensions = header.u32()?;
        for _ in 0..dimensions {
            header.length()?;
        }
        let kind = header.u32()?;
        if !KNOWN_TYPES.contains(&kind) {
            return Some((name, kind));
        }
        header.u64()?; // where its numbers are
    }
    None
}

struct Header<'a, R> {
    reader: &'a mut R,
    /// Lengths and counts have eight bytes; the first version's have four.
    long: bool,
}

impl<'a, R: Read + Seek> Header<'a, R> {
    /// The header after its version.
    fn begin(reader: &'a mut R) -> Option<Self> {
        reader.seek(SeekFrom::Start(VERSION_AT)).ok()?;
        let mut header = Self { reader, long: true };
        header.long = header.u32()? >= FIRST_VERSION_WITH_LONG_COUNTS;
        Some(header)
    }

    /// Skips a value of the metadata.
    fn skip(&mut self, kind: u32, depth: usize) -> Option<()> {
        let bytes = match kind {
            STRING => self.length()?,
            ARRAY => {
                let kind = self.u32()?;
                let count = self.length()?;
                match width(kind) {
                    Some(width) => count.checked_mul(width)?,
                    None if depth < MAX_DEPTH => {
                        for _ in 0..count {
                            self.skip(kind, depth + 1)?;
                        }
                        0
                    }
                    None => return None,
                }
            }
            kind => width(kind)?,
        };
        self.reader.seek_relative(i64::try_from(bytes).ok()?).ok()
    }

    fn length(&mut self) -> Option<u64> {
        if self.long { self.u64() } else { self.u32().map(u64::from) }
    }

    fn u32(&mut self) -> Option<u32> {
        let mut bytes = [0; 4];
        self.reader.read_exact(&mut bytes).ok()?;
        Some(u32::from_le_bytes(bytes))
    }

    fn u64(&mut self) -> Option<u64> {
        let mut bytes = [0; 8];
        self.reader.read_exact(&mut bytes).ok()?;
        Some(u64::from_le_bytes(bytes))
    }

    /// At most [`MAX_NAME`] bytes.
    fn bytes(&mut self, length: u64) -> Option<Vec<u8>> {
        let mut bytes = vec![0; usize::try_from(length).ok()?];
        self.reader.read_exact(&mut bytes).ok()?;
        Some(bytes)
    }

    fn text(&mut self, length: u64) -> Option<String> {
        Some(String::from_utf8_lossy(&self.bytes(length)?).into_owned())
    }
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

const VERSION_AT: u64 = 4;
const FIRST_VERSION_WITH_LONG_COUNTS: u32 = 2;
const STRING: u32 = 8;
const ARRAY: u32 = 9;
const MAX_NAME: u64 = 1 << 16;
/// How deep lists of lists nest at most, as candle has it.
const MAX_DEPTH: usize = 64;
const ALIGNMENT: &str = "general.alignment";

/// The tensor types candle reads, by their number in the format.
const KNOWN_TYPES: &[u32] = &[0, 1, 2, 3, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 30];
