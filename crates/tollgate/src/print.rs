//! What commands print: tables for people, JSON for programs.

use std::io::Write;

use anyhow::Context;
use domain::Timestamp;
use jiff::civil::Time;
use jiff::tz::TimeZone;

/// Prints `text` as it is.
pub(crate) fn say(text: &str) -> anyhow::Result<()> {
    std::io::stdout().write_all(text.as_bytes()).context("print")
}

/// Prints JSON, indented.
pub(crate) fn say_json(json: &serde_json::Value) -> anyhow::Result<()> {
    say(&format!("{json:#}\n"))
}

/// Columns as wide as what is in them; figures stand at the right.
pub(crate) fn table(titles: &[&str], rows: &[Vec<String>]) -> String {
    let is_figure = |text: &str| {
        text.chars().all(|one| one.is_ascii_digit() || ".-$".contains(one)) && !text.is_empty()
    };
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.chain([titles[column].chars().count()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..titles.len()).map(width).collect();
    let right: Vec<bool> = (0..titles.len())
        .map(|column| !rows.is_empty() && rows.iter().all(|row| is_figure(&row[column])))
        .collect();
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let padded = cells.zip(&widths).zip(&right).map(|((cell, width), right)| {
            if *right { format!("{cell:>width$}") } else { format!("{cell:<width$}") }
        });
        let padded: Vec<String> = padded.collect();
        format!("{}\n", padded.join("  ").trim_end())
    };
    let mut text = line(&mut titles.iter().copied());
    for row in rows {
        text.push_str(&line(&mut row.iter().map(String::as_str)));
    }
    text
}

/// A moment as people write it: `2026-11-01T12:00:00Z`.
pub(crate) fn moment(at: Timestamp) -> String {
    let millis = i64::try_from(at.millis()).ok();
    let at = millis.and_then(|millis| jiff::Timestamp::from_millisecond(millis).ok());
    at.map_or_else(
        || "never".to_owned(),
        |at| at.round(jiff::Unit::Second).unwrap_or(at).to_string(),
    )
}

/// A date at midnight UTC, or a moment.
pub(crate) fn parse_moment(text: &str) -> Result<Timestamp, String> {
    let date = text.parse::<jiff::civil::Date>().ok();
    let midnight =
        date.and_then(|date| TimeZone::UTC.to_timestamp(date.to_datetime(Time::midnight())).ok());
    let moment = midnight.or_else(|| text.parse().ok());
    let millis = moment.and_then(|at: jiff::Timestamp| u64::try_from(at.as_millisecond()).ok());
    millis
        .map(Timestamp::from_millis)
        .ok_or_else(|| "neither a date (2026-11-01) nor a moment (2026-11-01T00:00:00Z)".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_stand_at_the_right_and_words_at_the_left() {
        let rows =
            [vec!["a".to_owned(), "7".to_owned()], vec!["longer".to_owned(), "12.50".to_owned()]];

        let shown = table(&["NAME", "COST"], &rows);

        assert_eq!(shown, "NAME     COST\na           7\nlonger  12.50\n");
    }

    #[test]
    fn moments_are_read_as_they_are_written() {
        let noon = parse_moment("2026-11-01T12:00:00Z").unwrap();

        assert_eq!(moment(noon), "2026-11-01T12:00:00Z");
        assert_eq!(
            parse_moment("2026-11-01").unwrap().since(Timestamp::default()).as_secs() % 86_400,
            0
        );
        assert!(parse_moment("yesterday").is_err());
    }
}
