//! Formats numbers for people, at most eight columns wide, so that tables stay aligned.
//!
//! Counts use powers of 1000 (`12.3k`), bytes powers of 1024 (`4.50 MiB`). No function fails: a value that is
//! not a number (such as a division by zero) is shown as `-`.

/// Milliseconds per day.
const DAY_MS: u64 = 86_400_000;

/// Formats a count: `0`, `999`, `12.3k`, `4.57M`. At most five columns.
pub fn count(value: u64) -> String {
    if value < 1000 {
        return value.to_string();
    }
    scaled(value as f64, 1000.0, &["", "k", "M", "G", "T", "P", "E"])
}

/// Formats a rate per second, without the unit: `0`, `0.4`, `812`, `12.3k`.
pub fn rate(value: f64) -> String {
    if !value.is_finite() || value < 0.0 {
        return "-".to_owned();
    }
    if value > 0.0 && value < 9.95 {
        return format!("{value:.1}");
    }
    count(value.round() as u64)
}

/// Formats bytes: `0 B`, `999 B`, `4.50 MiB`. At most eight columns.
pub fn bytes(value: f64) -> String {
    if !value.is_finite() || value < 0.0 {
        return "-".to_owned();
    }
    if value < 999.5 {
        return format!("{value:.0} B");
    }
    scaled(value, 1024.0, &[" B", " KiB", " MiB", " GiB", " TiB", " PiB", " EiB"])
}

/// Formats bytes per second: `4.50 MiB/s`.
pub fn bytes_per_s(value: f64) -> String {
    format!("{}/s", bytes(value))
}

/// Formats a part of a whole, 0 to 1: `0%`, `4.2%`, `97.3%`, `100%`. At most five columns.
pub fn percent(part: f64) -> String {
    if !part.is_finite() {
        return "-".to_owned();
    }
    let percent = part * 100.0;
    // Never round up to "100%": a hit rate of 100% means that every read found its key.
    let shown = if percent < 100.0 { percent.min(99.9) } else { percent };
    if shown == 0.0 || shown >= 100.0 { format!("{shown:.0}%") } else { format!("{shown:.1}%") }
}

/// Formats the part of the reads that found their key; `-` before the first read.
pub fn hit_rate(hits: u64, misses: u64) -> String {
    percent(hits as f64 / (hits as f64 + misses as f64))
}

/// Formats a latency in microseconds: `-` for 0, `85 µs`, `1.24 ms`, `2.10 s`. At most seven columns below
/// 1000 s.
pub fn latency_us(value: u64) -> String {
    match value {
        0 => "-".to_owned(),
        1..=999 => format!("{value} µs"),
        1_000..=999_499 => format!("{} ms", three_digits(value as f64 / 1e3)),
        _ => format!("{} s", three_digits(value as f64 / 1e6)),
    }
}

/// Formats a duration in seconds with at most two units: `4 s`, `3 m 20 s`, `2 h 5 m`, `12 d 3 h`.
pub fn seconds(value: u64) -> String {
    let pair = |big: u64, unit: &str, rest: u64, small: &str| {
        if rest == 0 { format!("{big} {unit}") } else { format!("{big} {unit} {rest} {small}") }
    };
    match value {
        0..=59 => format!("{value} s"),
        60..=3599 => pair(value / 60, "m", value % 60, "s"),
        3600..=86_399 => pair(value / 3600, "h", value % 3600 / 60, "m"),
        _ => pair(value / 86_400, "d", value % 86_400 / 3600, "h"),
    }
}

/// Formats an age in seconds with one unit: `4s`, `3m`, `2h`, `12d`.
pub fn age(value_s: u64) -> String {
    match value_s {
        0..=59 => format!("{value_s}s"),
        60..=3599 => format!("{}m", value_s / 60),
        3600..=86_399 => format!("{}h", value_s / 3600),
        _ => format!("{}d", value_s / 86_400),
    }
}

/// Formats the time of day in UTC: `07:31:05`.
pub fn clock(time_ms: u64) -> String {
    let second = time_ms / 1000 % 86_400;
    format!("{:02}:{:02}:{:02}", second / 3600, second % 3600 / 60, second % 60)
}

/// Formats the time of day on the day of `now_ms`, else month, day and minute, in UTC: `07:31:05`, `01-31
/// 07:31`.
pub fn clock_or_date(time_ms: u64, now_ms: u64) -> String {
    if time_ms / DAY_MS == now_ms / DAY_MS {
        return clock(time_ms);
    }
    let (_, month, day) = date(time_ms / DAY_MS);
    let minute = time_ms % DAY_MS / 60_000;
    format!("{month:02}-{day:02} {:02}:{:02}", minute / 60, minute % 60)
}

/// Formats date and time in UTC: `2026-01-31 23:59:59.123`.
pub fn date_and_time(time_ms: u64) -> String {
    let (year, month, day) = date(time_ms / DAY_MS);
    format!("{year:04}-{month:02}-{day:02} {}.{:03}", clock(time_ms), time_ms % 1000)
}

/// Returns year, month and day for a number of days after 1970-01-01 (Howard Hinnant, "chrono-compatible
/// low-level date algorithms").
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

/// Returns the last six characters of a node id, because all ids begin alike.
pub fn short(id: &str) -> &str {
    let cut = id.char_indices().rev().nth(5).map_or(0, |(at, _)| at);
    &id[cut..]
}

/// Formats `value` divided by `base` until it is below 1000, with the unit of that step.
fn scaled(value: f64, base: f64, units: &[&str]) -> String {
    let mut value = value;
    let mut step = 0;
    while value >= 999.5 && step + 1 < units.len() {
        value /= base;
        step += 1;
    }
    format!("{}{}", three_digits(value), units.get(step).copied().unwrap_or_default())
}

/// Formats with three significant digits below 1000: `1.24`, `12.4`, `124`.
fn three_digits(value: f64) -> String {
    if value < 9.995 {
        format!("{value:.2}")
    } else if value < 99.95 {
        format!("{value:.1}")
    } else {
        format!("{value:.0}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_keep_three_digits() {
        let shown = [0, 7, 999, 1000, 12_345, 999_499, 999_500, 4_567_000, u64::MAX].map(count);
        assert_eq!(shown, ["0", "7", "999", "1.00k", "12.3k", "999k", "1.00M", "4.57M", "18.4E"]);
    }

    #[test]
    fn bytes_are_never_wider_than_eight_columns() {
        assert_eq!(bytes(0.0), "0 B");
        assert_eq!(bytes(999.4), "999 B");
        assert_eq!(bytes(1000.0), "0.98 KiB");
        assert_eq!(bytes(4.5 * 1024.0 * 1024.0), "4.50 MiB");
        assert_eq!(bytes(f64::NAN), "-");
        for power in 0..60 {
            let text = bytes(1.999 * 2f64.powi(power));
            assert!(text.chars().count() <= 8, "{text}");
        }
    }

    #[test]
    fn a_hit_rate_below_one_is_never_shown_as_all() {
        assert_eq!([0.0, 0.042, 0.9999, 1.0].map(percent), ["0%", "4.2%", "99.9%", "100%"]);
        assert_eq!(percent(f64::NAN), "-");
    }

    #[test]
    fn latencies_change_unit_at_a_thousand() {
        assert_eq!(
            [0, 85, 999, 1240, 85_000, 2_100_000].map(latency_us),
            ["-", "85 µs", "999 µs", "1.24 ms", "85.0 ms", "2.10 s"]
        );
    }

    #[test]
    fn times_use_two_units_at_most() {
        assert_eq!(
            [0, 59, 60, 200, 7500, 1_047_600].map(seconds),
            ["0 s", "59 s", "1 m", "3 m 20 s", "2 h 5 m", "12 d 3 h"]
        );
        assert_eq!([4, 200, 7500, 1_047_600].map(age), ["4s", "3m", "2h", "12d"]);
        assert_eq!(clock(1_700_000_000_000), "22:13:20");
    }

    #[test]
    fn days_are_those_of_the_calendar() {
        assert_eq!(date_and_time(0), "1970-01-01 00:00:00.000");
        assert_eq!(date_and_time(951_782_399_001), "2000-02-28 23:59:59.001");
        assert_eq!(date_and_time(951_782_400_000), "2000-02-29 00:00:00.000");
        assert_eq!(date_and_time(1_798_761_599_999), "2026-12-31 23:59:59.999");
        assert_eq!(clock_or_date(1_700_000_000_000, 1_700_000_100_000), "22:13:20");
        assert_eq!(clock_or_date(1_700_000_000_000, 1_700_100_000_000), "11-14 22:13");
    }

    #[test]
    fn hit_rate_without_reads_is_a_dash() {
        assert_eq!(hit_rate(0, 0), "-");
        assert_eq!(hit_rate(1, 1), "50.0%");
    }

    #[test]
    fn small_rates_are_not_shown_as_zero() {
        assert_eq!(
            [0.0, 0.04, 0.4, 9.96, 812.4, 12_345.0].map(rate),
            ["0", "0.0", "0.4", "10", "812", "12.3k"]
        );
        assert_eq!(rate(f64::INFINITY), "-");
    }

    #[test]
    fn short_accepts_any_text() {
        assert_eq!(short("12D3KooWabcdefGHIJKL"), "GHIJKL");
        assert_eq!(short("äöü"), "äöü");
        assert_eq!(short(""), "");
    }
}
