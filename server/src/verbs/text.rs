//! How bytes, times, shares and tables look to people and in JSON.
//!
//! Keys and values are bytes of anybody's making. What is printed of them cannot end a line, nor send a terminal a
//! command: control characters, backslashes and what is not UTF-8 are written as escapes.

use std::{fmt::Write as _, time::Duration};

use comfy_table::{CellAlignment, LineStyle, Table, TableStyle};
use serde_json::{Value, json};

/// A line under the header, and nothing else that is not content: listings may be long.
const STYLE: TableStyle = TableStyle::new().header_separator(LineStyle::none().fill('─'));

const DAY_MS: u64 = 86_400_000;

/// A column's head, and on which side its cells stand.
pub(super) type Column = (&'static str, CellAlignment);

/// A column of words.
pub(super) const fn words(head: &'static str) -> Column {
    (head, CellAlignment::Left)
}

/// A column of numbers.
pub(super) const fn numbers(head: &'static str) -> Column {
    (head, CellAlignment::Right)
}

/// A table without trailing blanks and without a line feed at its end.
pub(super) fn table<const N: usize>(columns: [Column; N], rows: impl Iterator<Item = [String; N]>) -> String {
    let mut table = Table::new();
    table
        .load_style(STYLE)
        .set_header(columns.map(|(head, _)| head).to_vec())
        .add_rows(rows.map(|row| row.to_vec()));
    for (column, (_, alignment)) in table.column_iter_mut().zip(columns) {
        column.set_cell_alignment(alignment);
    }
    table.trim_fmt()
}

/// Names and what they stand for, one a line.
pub(super) fn facts<const N: usize>(facts: [(&str, String); N]) -> String {
    let mut table = Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    table.add_rows(facts.map(|(name, fact)| vec![name.to_owned(), fact]));
    table.trim_fmt()
}

/// Bytes as text: UTF-8 as it is, the rest and control characters as `\xNN`, and a backslash as two.
pub(super) fn escaped(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        chunk.valid().chars().for_each(|c| push_escaped(&mut text, c));
        push_hex(&mut text, chunk.invalid());
    }
    text
}

/// A fingerprint, always as long.
pub(super) fn hash(hash: u64) -> String {
    format!("{hash:016x}")
}

/// [`escaped`], between quotation marks: for messages.
pub(super) fn quoted(bytes: &[u8]) -> String {
    format!("\"{}\"", escaped(bytes))
}

fn push_escaped(text: &mut String, c: char) {
    match c {
        '\\' => text.push_str("\\\\"),
        '\n' => text.push_str("\\n"),
        '\r' => text.push_str("\\r"),
        '\t' => text.push_str("\\t"),
        c if c.is_control() => push_hex(text, c.encode_utf8(&mut [0; 4]).as_bytes()),
        c => text.push(c),
    }
}

fn push_hex(text: &mut String, bytes: &[u8]) {
    for byte in bytes {
        // Writing to a String cannot fail.
        let _ = write!(text, "\\x{byte:02x}");
    }
}

/// `[start, end)`; a side that is empty is open.
pub(super) fn range(start: &[u8], end: &[u8]) -> String {
    format!("[{}, {})", escaped(start), escaped(end))
}

/// Milliseconds since 1970 as date and time, UTC. 0, which stands for "not yet", is nothing.
pub(super) fn utc(at_ms: u64) -> String {
    if at_ms == 0 {
        return String::new();
    }
    let (year, month, day) = civil_of(at_ms / DAY_MS);
    let second = at_ms % DAY_MS / 1_000;
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}Z")
}

/// Year, month and day of the Gregorian calendar, from days since 1970-01-01. Counts in eras of 400 years and in years
/// that begin with March, so that a leap day is a year's last (Howard Hinnant, "chrono-compatible low-level date
/// algorithms", `civil_from_days`).
fn civil_of(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 {
        march_month + 3
    } else {
        march_month - 9
    };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

/// A length of time in its two largest units.
pub(super) fn length(length: Duration) -> String {
    let seconds = length.as_secs();
    match seconds {
        0 => format!("{} ms", length.as_millis()),
        1..60 => format!("{seconds}.{} s", length.subsec_millis() / 100),
        60..3_600 => format!("{} min {} s", seconds / 60, seconds % 60),
        _ => format!("{} h {} min", seconds / 3_600, seconds / 60 % 60),
    }
}

/// Parts per million as percent, to a tenth.
pub(super) fn percent(ppm: u32) -> String {
    let tenths = (u64::from(ppm) + 500) / 1_000;
    format!("{}.{} %", tenths / 10, tenths % 10)
}

/// A count of bytes in a decimal unit, to a tenth.
pub(super) fn bytes(count: u64) -> String {
    let (unit, name) = match count {
        0..1_000 => return format!("{count} B"),
        1_000..1_000_000 => (1_000, "kB"),
        1_000_000..1_000_000_000 => (1_000_000, "MB"),
        1_000_000_000..1_000_000_000_000 => (1_000_000_000, "GB"),
        _ => (1_000_000_000_000, "TB"),
    };
    format!("{}.{} {name}", count / unit, count % unit / (unit / 10))
}

/// Bytes in JSON: a string where they are UTF-8, else `{"hex": ".."}`.
pub(super) fn octets(bytes: &[u8]) -> Value {
    match std::str::from_utf8(bytes) {
        Ok(text) => json!(text),
        Err(_) => {
            let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            json!({ "hex": hex })
        }
    }
}

/// An id or a time that is absent where the protocol says 0.
pub(super) fn nonzero(number: u64) -> Option<u64> {
    (number != 0).then_some(number)
}

/// An id in a table; nothing where the protocol says 0.
pub(super) fn id(id: u64) -> String {
    nonzero(id).map(|id| id.to_string()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_stay_on_their_line_and_in_their_cell() {
        for (bytes, text) in [
            (&b"user/7"[..], "user/7"),
            ("Bünde \u{1f426}".as_bytes(), "Bünde \u{1f426}"),
            (b"a\nb\tc\r", r"a\nb\tc\r"),
            (b"\x1b[31m\0\x7f", r"\x1b[31m\x00\x7f"),
            ("\u{9b}31m".as_bytes(), r"\xc2\x9b31m"),
            (b"a\xffb\xc3", r"a\xffb\xc3"),
            (br"\x00", r"\\x00"),
            (b"", ""),
        ] {
            assert_eq!(escaped(bytes), text, "{bytes:?}");
        }
        assert_eq!(quoted(b"a\n"), r#""a\n""#);
    }

    #[test]
    fn ranges_are_half_open_and_may_be_unbounded() {
        assert_eq!(range(b"", b"m\0"), r"[, m\x00)");
        assert_eq!(range(b"m\0", b""), r"[m\x00, )");
    }

    #[test]
    fn times_follow_the_calendar() {
        for (at_ms, text) in [
            (0, ""),
            (1, "1970-01-01 00:00:00Z"),
            (951_782_399_999, "2000-02-28 23:59:59Z"),
            (951_782_400_000, "2000-02-29 00:00:00Z"),
            (951_868_800_000, "2000-03-01 00:00:00Z"),
            (1_709_210_096_000, "2024-02-29 12:34:56Z"),
            (1_735_689_599_000, "2024-12-31 23:59:59Z"),
            (4_107_542_400_000, "2100-03-01 00:00:00Z"),
        ] {
            assert_eq!(utc(at_ms), text, "{at_ms}");
        }
        assert!(utc(u64::MAX).ends_with('Z'), "whatever a host sends");
    }

    #[test]
    fn lengths_take_two_units() {
        for (ms, text) in [
            (0, "0 ms"),
            (999, "999 ms"),
            (1_250, "1.2 s"),
            (59_999, "59.9 s"),
            (61_000, "1 min 1 s"),
            (3_600_000, "1 h 0 min"),
            (180_061_000, "50 h 1 min"),
        ] {
            assert_eq!(length(Duration::from_millis(ms)), text, "{ms}");
        }
    }

    #[test]
    fn shares_and_sizes_are_rounded() {
        for (ppm, text) in [
            (0, "0.0 %"),
            (812_345, "81.2 %"),
            (999_999, "100.0 %"),
            (450, "0.0 %"),
            (500, "0.1 %"),
        ] {
            assert_eq!(percent(ppm), text, "{ppm}");
        }
        for (count, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1_099, "1.0 kB"),
            (2_500_000, "2.5 MB"),
            (64_000_000_000, "64.0 GB"),
            (u64::MAX, "18446744.0 TB"),
        ] {
            assert_eq!(bytes(count), text, "{count}");
        }
    }

    #[test]
    fn json_tells_text_from_other_bytes() {
        assert_eq!(octets("ü\n".as_bytes()), json!("ü\n"));
        assert_eq!(octets(b"\xffa"), json!({ "hex": "ff61" }));
    }

    #[test]
    fn a_table_is_its_content_and_one_line() {
        let columns = [numbers("host"), words("zone"), numbers("homes")];
        let row = |cells: [&str; 3]| cells.map(str::to_owned);
        let rows = [row(["1", "north-1", "12"]), row(["10", "", "7"])];
        let expected = [
            " host  zone     homes",
            "──────────────────────",
            "    1  north-1     12",
            "   10               7",
        ];
        let text = table(columns, rows.into_iter());
        assert_eq!(text.lines().collect::<Vec<_>>(), expected);
    }
}
