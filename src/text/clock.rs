//! `strftime_now` of chat templates: the date and time, in UTC, by the C locale's directives.
#![forbid(unsafe_code)]

use std::fmt::Write as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] =
    ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];

/// The time now, as `format` says. An unknown directive is an error that names it.
pub(super) fn format_now(format: &str) -> Result<String, String> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    format_utc(format, now.as_secs())
}

/// The date of a day counted from 1970-01-01.
struct Date {
    year: u64,
    /// 1 to 12.
    month: u64,
    /// 1 to 31.
    day: u64,
    /// 0 is January 1st.
    day_of_year: u64,
}

fn is_leap(year: u64) -> bool {
    year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
}

impl Date {
    fn from_days(mut days: u64) -> Date {
        // 400 years have 146097 days: whole ones first, so that the loop is short for any clock.
        let mut year = 1970 + days / 146_097 * 400;
        days %= 146_097;
        while days >= 365 + u64::from(is_leap(year)) {
            days -= 365 + u64::from(is_leap(year));
            year += 1;
        }
        let day_of_year = days;
        let mut month = 1;
        for length in [31, 28 + u64::from(is_leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30] {
            if days < length {
                break;
            }
            days -= length;
            month += 1;
        }
        Date { year, month, day: days + 1, day_of_year }
    }
}

fn format_utc(format: &str, seconds: u64) -> Result<String, String> {
    let date = Date::from_days(seconds / 86_400);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    let hour12 = (hour + 11) % 12 + 1;
    let month = MONTHS[date.month as usize - 1];
    let weekday = DAYS[((seconds / 86_400 + 4) % 7) as usize];
    let mut out = String::new();
    let mut characters = format.chars();
    while let Some(character) = characters.next() {
        if character != '%' {
            out.push(character);
            continue;
        }
        let mut directive = characters.next();
        let pads = directive != Some('-');
        if !pads {
            directive = characters.next();
        }
        let (number, width) = match directive {
            Some('%') => {
                out.push('%');
                continue;
            }
            Some('a' | 'b' | 'h' | 'A' | 'B' | 'p') => {
                out.push_str(match directive {
                    Some('a') => &weekday[..3],
                    Some('A') => weekday,
                    Some('B') => month,
                    Some('p') => ["AM", "PM"][usize::from(hour >= 12)],
                    _ => &month[..3],
                });
                continue;
            }
            Some('F') => {
                let _ = write!(out, "{}-{:02}-{:02}", date.year, date.month, date.day);
                continue;
            }
            Some('T') => {
                let _ = write!(out, "{hour:02}:{minute:02}:{second:02}");
                continue;
            }
            Some('Y') => (date.year, 4),
            Some('y') => (date.year % 100, 2),
            Some('m') => (date.month, 2),
            Some('d') => (date.day, 2),
            Some('j') => (date.day_of_year + 1, 3),
            Some('H') => (hour, 2),
            Some('I') => (hour12, 2),
            Some('M') => (minute, 2),
            Some('S') => (second, 2),
            other => {
                let name = other.map(String::from).unwrap_or_default();
                return Err(format!("strftime_now: %{name} is not supported"));
            }
        };
        let width = if pads { width } else { 0 };
        let _ = write!(out, "{number:0width$}");
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Expected texts are from Python's `datetime.fromtimestamp(seconds, timezone.utc).strftime(format)`.
    #[test]
    fn equals_python() {
        let all = "%Y-%m-%d %H:%M:%S %j %A %a %B %b %y %I%p %%";
        let cases = [
            (0, "1970-01-01 00:00:00 001 Thursday Thu January Jan 70 12AM %"),
            (951_782_400, "2000-02-29 00:00:00 060 Tuesday Tue February Feb 00 12AM %"),
            (1_735_689_599, "2024-12-31 23:59:59 366 Tuesday Tue December Dec 24 11PM %"),
            (4_107_542_400, "2100-03-01 00:00:00 060 Monday Mon March Mar 00 12AM %"),
        ];
        for (seconds, expected) in cases {
            assert_eq!(format_utc(all, seconds).unwrap(), expected);
        }
        assert_eq!(format_utc("%-d/%-m", 0).unwrap(), "1/1");
        assert!(format_utc("%Q", 0).unwrap_err().contains("%Q"));
        assert!(format_utc("%", 0).is_err());
        assert!(format_utc("%F %T", u64::MAX).is_ok());
    }
}
