//! Renders a buffer as an SVG image with its colours, for documents.
//!
//! Each run of equal style is one `<text>`, stretched to its exact width, so that columns stay aligned in
//! every monospaced font. Blocks and borders are shapes, because fonts leave gaps between them.

use std::fmt::Write;

use ratatui::buffer::{Buffer, Cell};
use ratatui::style::{Color, Modifier};

/// Width and height of a cell, and font size, in pixels.
const CELL_WIDTH: f64 = 8.4;
const CELL_HEIGHT: f64 = 18.0;
const FONT_SIZE: f64 = 14.0;
/// Empty space around the frame, in pixels.
const MARGIN: f64 = 12.0;
/// Colours of cells that set none.
const BACKGROUND: &str = "#16181d";
const FOREGROUND: &str = "#d8dade";

/// Returns the buffer as an SVG document.
pub fn render(buf: &Buffer) -> String {
    let columns = usize::from(buf.area.width).max(1);
    let width = columns as f64 * CELL_WIDTH + 2.0 * MARGIN;
    let height = f64::from(buf.area.height) * CELL_HEIGHT + 2.0 * MARGIN;
    let mut svg = String::new();
    // Writing to a string cannot fail.
    let _ = writeln!(
        svg,
        r#"<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0}" height="{height:.0}" viewBox="0 0 {width:.0} {height:.0}" font-family="ui-monospace, 'DejaVu Sans Mono', Menlo, Consolas, monospace" font-size="{FONT_SIZE}">
<rect width="100%" height="100%" rx="8" fill="{BACKGROUND}"/>"#
    );
    for (row, cells) in buf.content().chunks(columns).enumerate() {
        let y = MARGIN + row as f64 * CELL_HEIGHT;
        backgrounds(&mut svg, cells, y);
        runs(&mut svg, cells, y);
    }
    svg.push_str("</svg>\n");
    svg
}

/// Draws one rectangle per run of cells with the same background.
fn backgrounds(svg: &mut String, cells: &[Cell], y: f64) {
    let mut column = 0;
    for group in cells.chunk_by(|a, b| colors(a).1 == colors(b).1) {
        if let Some(fill) = group.first().and_then(|cell| colors(cell).1) {
            let (x, width) = (x_of(column), group.len() as f64 * CELL_WIDTH);
            let _ = writeln!(
                svg,
                r#"<rect x="{x:.1}" y="{y:.1}" width="{width:.1}" height="{CELL_HEIGHT}" fill="{fill}"/>"#
            );
        }
        column += group.len();
    }
}

/// Draws text and shapes of one row.
fn runs(svg: &mut String, cells: &[Cell], y: f64) {
    let same = |a: &Cell, b: &Cell| {
        let drawn = |cell: &Cell| shape(cell.symbol(), 0.0, 0.0, "").is_some();
        colors(a).0 == colors(b).0 && a.modifier == b.modifier && !drawn(a) && !drawn(b)
    };
    let mut column = 0;
    for group in cells.chunk_by(same) {
        if let Some(first) = group.first() {
            let color = colors(first).0;
            match shape(first.symbol(), x_of(column), y, &color) {
                Some(shape) => svg.push_str(&shape),
                None => text(svg, group, column, y, &color),
            }
        }
        column += group.len();
    }
}

fn text(svg: &mut String, group: &[Cell], column: usize, y: f64, color: &str) {
    let all: String = group.iter().map(Cell::symbol).collect();
    let blank = group.iter().take_while(|cell| cell.symbol() == " ").count();
    let shown = all.trim_matches(' ');
    if shown.is_empty() {
        return;
    }
    let columns = group.len() - blank - group.iter().rev().take_while(|cell| cell.symbol() == " ").count();
    let (x, baseline) = (x_of(column + blank), y + CELL_HEIGHT * 0.74);
    let length = columns as f64 * CELL_WIDTH;
    let modifier = group.first().map_or(Modifier::empty(), |cell| cell.modifier);
    let weight = if modifier.contains(Modifier::BOLD) { r#" font-weight="bold""# } else { "" };
    let _ = writeln!(
        svg,
        r#"<text x="{x:.1}" y="{baseline:.1}" textLength="{length:.1}" lengthAdjust="spacingAndGlyphs" xml:space="preserve" fill="{color}"{weight}>{}</text>"#,
        escaped(shown)
    );
}

fn x_of(column: usize) -> f64 {
    MARGIN + column as f64 * CELL_WIDTH
}

/// Returns the shape of a block or border character; `None` for text.
fn shape(symbol: &str, x: f64, y: f64, color: &str) -> Option<String> {
    let (w, h) = (CELL_WIDTH, CELL_HEIGHT);
    let rect = |width: f64, height: f64| {
        let top = y + h - height;
        format!(
            "<rect x=\"{x:.1}\" y=\"{top:.1}\" width=\"{width:.2}\" height=\"{height:.2}\" \
             fill=\"{color}\"/>\n"
        )
    };
    let (middle, center) = (x + w / 2.0, y + h / 2.0);
    let (right, bottom, radius) = (x + w, y + h, w / 2.0);
    let path = |d: String| format!("<path d=\"{d}\" stroke=\"{color}\" fill=\"none\"/>\n");
    let first = symbol.chars().next()?;
    let drawn = match first {
        '▁'..='█' => rect(w, h * f64::from(u32::from(first) - 0x2580) / 8.0),
        '▉'..='▏' => rect(w * f64::from(0x2590 - u32::from(first)) / 8.0, h),
        '─' => path(format!("M{x:.1} {center:.1}H{right:.1}")),
        '│' => path(format!("M{middle:.1} {y:.1}V{bottom:.1}")),
        '╭' => path(format!(
            "M{right:.1} {center:.1}A{radius:.1} {radius:.1} 0 0 0 {middle:.1} {:.1}V{bottom:.1}",
            center + radius
        )),
        '╮' => path(format!(
            "M{x:.1} {center:.1}A{radius:.1} {radius:.1} 0 0 1 {middle:.1} {:.1}V{bottom:.1}",
            center + radius
        )),
        '╰' => path(format!(
            "M{right:.1} {center:.1}A{radius:.1} {radius:.1} 0 0 1 {middle:.1} {:.1}V{y:.1}",
            center - radius
        )),
        '╯' => path(format!(
            "M{x:.1} {center:.1}A{radius:.1} {radius:.1} 0 0 0 {middle:.1} {:.1}V{y:.1}",
            center - radius
        )),
        _ => return None,
    };
    Some(drawn)
}

/// Returns foreground and background of a cell as CSS colours; `None`: the background of the document.
fn colors(cell: &Cell) -> (String, Option<String>) {
    (css(cell.fg).unwrap_or_else(|| FOREGROUND.to_owned()), css(cell.bg))
}

/// Returns a terminal colour as CSS; `None` for the default colour.
fn css(color: Color) -> Option<String> {
    let index = match color {
        Color::Reset => return None,
        Color::Rgb(r, g, b) => return Some(hex(r, g, b)),
        Color::Indexed(index) => index,
        Color::Black => 0,
        Color::Red => 1,
        Color::Green => 2,
        Color::Yellow => 3,
        Color::Blue => 4,
        Color::Magenta => 5,
        Color::Cyan => 6,
        Color::Gray => 7,
        Color::DarkGray => 8,
        Color::LightRed => 9,
        Color::LightGreen => 10,
        Color::LightYellow => 11,
        Color::LightBlue => 12,
        Color::LightMagenta => 13,
        Color::LightCyan => 14,
        Color::White => 15,
    };
    Some(indexed(index))
}

/// Returns a colour of the 256-colour palette as xterm defines it.
fn indexed(index: u8) -> String {
    const BASE: [(u8, u8, u8); 16] = [
        (0, 0, 0),
        (205, 0, 0),
        (0, 205, 0),
        (205, 205, 0),
        (0, 0, 238),
        (205, 0, 205),
        (0, 205, 205),
        (229, 229, 229),
        (127, 127, 127),
        (255, 0, 0),
        (0, 255, 0),
        (255, 255, 0),
        (92, 92, 255),
        (255, 0, 255),
        (0, 255, 255),
        (255, 255, 255),
    ];
    if let Some((r, g, b)) = BASE.get(usize::from(index)) {
        return hex(*r, *g, *b);
    }
    if index >= 232 {
        let gray = 8 + (index - 232) * 10;
        return hex(gray, gray, gray);
    }
    let level = |step: u8| if step == 0 { 0 } else { 55 + step * 40 };
    let cube = index - 16;
    hex(level(cube / 36), level(cube / 6 % 6), level(cube % 6))
}

fn hex(r: u8, g: u8, b: u8) -> String {
    format!("#{r:02x}{g:02x}{b:02x}")
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use ratatui::layout::Rect;
    use ratatui::style::Style;

    #[test]
    fn the_palette_is_xterms() {
        assert_eq!(indexed(16), "#000000");
        assert_eq!(indexed(75), "#5fafff");
        assert_eq!(indexed(203), "#ff5f5f");
        assert_eq!(indexed(231), "#ffffff");
        assert_eq!(indexed(236), "#303030");
        assert_eq!(css(Color::Reset), None);
    }

    #[test]
    fn text_keeps_its_place_and_colour_and_is_escaped() {
        let mut buf = Buffer::empty(Rect::new(0, 0, 8, 1));
        buf.set_string(2, 0, "a<b&", Style::new().fg(Color::Indexed(75)));
        let svg = render(&buf);
        assert!(svg.contains(r##"<text x="28.8" y="25.3" textLength="33.6""##), "{svg}");
        assert!(svg.contains(r##"fill="#5fafff">a&lt;b&amp;</text>"##), "{svg}");
    }

    #[test]
    fn blocks_and_borders_are_shapes() {
        let mut buf = Buffer::empty(Rect::new(0, 0, 4, 1));
        buf.set_string(0, 0, "╭─▄▌", Style::new().fg(Color::Rgb(1, 2, 3)));
        let svg = render(&buf);
        assert!(!svg.contains("<text"), "{svg}");
        assert_eq!(svg.matches("<path").count(), 2);
        assert!(svg.contains(r#"width="8.40" height="9.00""#), "half a cell high: {svg}");
        assert!(svg.contains(r#"width="4.20" height="18.00""#), "half a cell wide: {svg}");
    }

    #[test]
    fn a_background_is_one_rectangle_a_run() {
        let mut buf = Buffer::empty(Rect::new(0, 0, 6, 1));
        buf.set_string(1, 0, "   ", Style::new().bg(Color::Indexed(236)));
        let svg = render(&buf);
        assert_eq!(svg.matches("#303030").count(), 1);
        assert!(svg.contains(r#"width="25.2""#));
    }
}
