//! What goes to standard output: raw values, lines, tables, JSON; and how figures are written for people.

use std::io::{self, BufWriter, IsTerminal as _, Stdout, Write as _};

use comfy_table::{CellAlignment, Table, presets};
use serde_json::{Value, json};

/// Standard output, and which form was asked for.
pub(crate) struct Output {
    // Not locked: the dashboard writes there too, from other threads.
    stdout: BufWriter<Stdout>,
    /// JSON was asked for.
    pub(crate) json: bool,
    /// A person is looking.
    pub(crate) is_terminal: bool,
}

impl Output {
    pub(crate) fn new(json: bool) -> Self {
        let stdout = io::stdout();
        let is_terminal = stdout.is_terminal();
        Self {
            stdout: BufWriter::new(stdout),
            json,
            is_terminal,
        }
    }

    /// Writes bytes as they are.
    pub(crate) fn raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stdout.write_all(bytes)
    }

    /// Writes a value: as it is, and with a line end where a person looks at it.
    pub(crate) fn value(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.raw(bytes)?;
        if self.is_terminal { self.raw(b"\n") } else { Ok(()) }
    }

    /// Writes one line.
    pub(crate) fn line(&mut self, text: &str) -> io::Result<()> {
        self.raw(text.as_bytes())?;
        self.raw(b"\n")
    }

    /// Writes JSON in the one form, plain text in the other.
    pub(crate) fn either(&mut self, text: &str, json: &Value) -> io::Result<()> {
        if self.json {
            self.line(&json.to_string())
        } else {
            self.line(text)
        }
    }

    /// Hands on what is buffered.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        self.stdout.flush()
    }
}

/// A key or value in JSON: text where it is UTF-8, else `{"hex": "..."}`.
pub(crate) fn json_bytes(bytes: &[u8]) -> Value {
    match std::str::from_utf8(bytes) {
        Ok(text) => Value::from(text),
        Err(_) => json!({ "hex": bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>() }),
    }
}

/// A table without lines, so that `awk` can read it too; columns marked `>` are aligned right.
pub(crate) fn table(header: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table
        .load_preset(presets::NOTHING)
        .set_header(header.iter().map(|name| name.trim_start_matches('>')));
    table.add_rows(rows);
    for (at, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, 2));
        if header.get(at).is_some_and(|name| name.starts_with('>')) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.trim_fmt()
}

/// The last six characters of a node's name: all names share their beginning.
pub(crate) fn short(id: &str) -> &str {
    let start = id.char_indices().rev().nth(5).map_or(0, |(at, _)| at);
    id.get(start..).unwrap_or(id)
}

/// `0 B`, `1.5 KiB`, `3.2 GiB`.
pub(crate) fn bytes(count: u64) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    let mut amount = count as f64 / 1024.0;
    let mut unit = units[0];
    for next in &units[1..] {
        if amount < 1023.95 {
            break;
        }
        amount /= 1024.0;
        unit = next;
    }
    format!("{amount:.1} {unit}")
}

/// `1,234,567`.
pub(crate) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `42s`, `3m07s`, `5h02m`, `3d04h`.
pub(crate) fn duration_s(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{}h{:02}m", seconds / 3600, seconds / 60 % 60),
        _ => format!("{}d{:02}h", seconds / 86_400, seconds / 3600 % 24),
    }
}

/// Microseconds as `850us` or `1.2ms`.
pub(crate) fn latency_us(us: u64) -> String {
    if us < 1000 {
        format!("{us}us")
    } else {
        format!("{:.1}ms", us as f64 / 1000.0)
    }
}

/// A time since 1970 in UTC: `2026-01-31 23:59:59.123`.
pub(crate) fn time(time_ms: u64) -> String {
    let (days, ms) = (time_ms / 86_400_000, time_ms % 86_400_000);
    let (year, month, day) = date(days);
    let (h, m, s) = (ms / 3_600_000, ms / 60_000 % 60, ms / 1000 % 60);
    format!(
        "{year:04}-{month:02}-{day:02} {h:02}:{m:02}:{s:02}.{:03}",
        ms % 1000
    )
}

/// The date a number of days after 1970-01-01 (Howard Hinnant, "chrono-compatible low-level date algorithms").
fn date(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let era = days / 146_097;
    let day_of_era = days % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_read_well() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes(1024 * 1024 - 1), "1.0 MiB");
        assert_eq!(bytes(u64::MAX), "16.0 EiB");
        assert_eq!(count(7), "7");
        assert_eq!(count(1_234_567), "1,234,567");
        assert_eq!(duration_s(187), "3m07s");
        assert_eq!(duration_s(90_000), "1d01h");
        assert_eq!(latency_us(999), "999us");
        assert_eq!(latency_us(1250), "1.2ms");
    }

    #[test]
    fn times_are_utc_dates() {
        assert_eq!(time(0), "1970-01-01 00:00:00.000");
        assert_eq!(time(951_782_399_001), "2000-02-28 23:59:59.001");
        assert_eq!(time(951_782_400_000), "2000-02-29 00:00:00.000");
        assert_eq!(time(1_798_761_599_999), "2026-12-31 23:59:59.999");
    }

    #[test]
    fn bytes_that_are_no_text_are_hexadecimal_in_json() {
        assert_eq!(json_bytes(b"a\"b").to_string(), r#""a\"b""#);
        assert_eq!(json_bytes(&[0xff, 0]).to_string(), r#"{"hex":"ff00"}"#);
    }

    #[test]
    fn tables_align_numbers_right_and_carry_no_trailing_space() {
        let text = table(
            &["NAME", ">N"],
            [vec!["a".into(), "1".into()], vec!["bcd".into(), "1000".into()]],
        );
        let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
        assert_eq!(lines, ["NAME     N", "a        1", "bcd   1000"]);
    }

    #[test]
    fn short_names_are_the_last_six_characters() {
        assert_eq!(short("12D3KooWabcdef"), "abcdef");
        assert_eq!(short("abc"), "abc");
    }
}
