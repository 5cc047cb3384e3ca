//! Standard output: raw values, lines, tables, JSON; and the number format of text output.

use std::io::{self, BufWriter, IsTerminal as _, Stdout, Write as _};

use comfy_table::{CellAlignment, Table, presets};
use serde_json::{Value, json};

/// Standard output and the requested form.
pub(crate) struct Output {
    // Not locked: the dashboard writes to standard output too, from other threads.
    stdout: BufWriter<Stdout>,
    /// Whether `--json` was given.
    pub(crate) json: bool,
    /// Whether standard output is a terminal.
    pub(crate) is_terminal: bool,
}

impl Output {
    pub(crate) fn new(json: bool) -> Self {
        let stdout = io::stdout();
        let is_terminal = stdout.is_terminal();
        Self { stdout: BufWriter::new(stdout), json, is_terminal }
    }

    /// Writes bytes unchanged.
    pub(crate) fn raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stdout.write_all(bytes)
    }

    /// Writes a value unchanged, and a line end after it on a terminal.
    pub(crate) fn value(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.raw(bytes)?;
        if self.is_terminal { self.raw(b"\n") } else { Ok(()) }
    }

    /// Writes one line.
    pub(crate) fn line(&mut self, text: &str) -> io::Result<()> {
        self.raw(text.as_bytes())?;
        self.raw(b"\n")
    }

    /// Writes `json` if `--json` was given, else `text`.
    pub(crate) fn either(&mut self, text: &str, json: &Value) -> io::Result<()> {
        if self.json { self.line(&json.to_string()) } else { self.line(text) }
    }

    /// Writes the buffered bytes.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        self.stdout.flush()
    }
}

/// Returns a key or value as JSON: text if it is UTF-8, else `{"hex": "..."}`.
pub(crate) fn json_bytes(bytes: &[u8]) -> Value {
    match std::str::from_utf8(bytes) {
        Ok(text) => Value::from(text),
        Err(_) => json!({ "hex": bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>() }),
    }
}

/// Formats a table without borders, so that `awk` can read it. A header that begins with `>` aligns right.
pub(crate) fn table(header: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(header.iter().map(|name| name.trim_start_matches('>')));
    table.add_rows(rows);
    for (at, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, 2));
        if header.get(at).is_some_and(|name| name.starts_with('>')) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.trim_fmt()
}

/// Formats a number as `1,234,567`.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_exact_and_grouped() {
        assert_eq!(count(7), "7");
        assert_eq!(count(1_234_567), "1,234,567");
    }

    #[test]
    fn bytes_that_are_no_text_are_hexadecimal_in_json() {
        assert_eq!(json_bytes(b"a\"b").to_string(), r#""a\"b""#);
        assert_eq!(json_bytes(&[0xff, 0]).to_string(), r#"{"hex":"ff00"}"#);
    }

    #[test]
    fn tables_align_numbers_right_and_carry_no_trailing_space() {
        let text = table(&["NAME", ">N"], [vec!["a".into(), "1".into()], vec!["bcd".into(), "1000".into()]]);
        let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
        assert_eq!(lines, ["NAME     N", "a        1", "bcd   1000"]);
    }
}
