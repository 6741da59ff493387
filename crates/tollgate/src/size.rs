//! Sizes of memory as people write them: `512MiB`, `2GiB`, or bytes.

/// The bytes that `text` means; what is wrong with it, in words for who wrote it.
pub(crate) fn parse(text: &str) -> Result<u64, String> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let unit = UNITS.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit.trim()));
    let bytes = number.parse::<u64>().ok().zip(unit).and_then(|(n, (_, of))| n.checked_mul(*of));
    bytes.ok_or_else(|| "write a size such as 512MiB or 2GiB, or a number of bytes".to_owned())
}

/// What may follow a number.
const UNITS: &[(&str, u64)] = &[
    ("", 1),
    ("B", 1),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("kB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_people_write_them() {
        assert_eq!(parse("268435456"), Ok(256 << 20));
        assert_eq!(parse("256MiB"), Ok(256 << 20));
        assert_eq!(parse("2 gib"), Ok(2 << 30));
        assert_eq!(parse("2GB"), Ok(2_000_000_000));
        for wrong in ["", "GiB", "-1", "1.5GiB", "2 bananas", "99999999999TiB"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
