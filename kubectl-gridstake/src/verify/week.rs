//! A week, as people write it.

use std::str::FromStr;

use k8s_openapi::jiff::{
    Timestamp,
    civil::{ISOWeekDate, Weekday},
    tz::TimeZone,
};

/// A week of ISO 8601 in UTC, in Unix seconds: from Monday on, the next Monday excluded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Week {
    /// Its first second.
    pub from: u64,
    /// The first second after it.
    pub until: u64,
}

/// A text that names no week.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no week: write the year and the week of ISO 8601, such as 2026-W48")]
pub struct InvalidWeek(String);

impl Week {
    /// Whether a block of this time lies in it.
    #[must_use]
    pub fn holds(&self, timestamp: u64) -> bool {
        (self.from..self.until).contains(&timestamp)
    }
}

impl FromStr for Week {
    type Err = InvalidWeek;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        bounds(text)
            .map(|(from, until)| Self { from, until })
            .ok_or_else(|| InvalidWeek(text.to_owned()))
    }
}

fn bounds(text: &str) -> Option<(u64, u64)> {
    let (year, week) = text.split_once("-W")?;
    if week.len() != 2 {
        return None;
    }
    let monday = ISOWeekDate::new(year.parse().ok()?, week.parse().ok()?, Weekday::Monday).ok()?;
    let begin: Timestamp = monday.date().to_zoned(TimeZone::UTC).ok()?.timestamp();
    let from = u64::try_from(begin.as_second()).ok()?;
    Some((from, from + 7 * 24 * 3600))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_week_begins_on_monday_in_utc() {
        let week: Week = "2026-W48".parse().unwrap();
        let at =
            |text: &str| u64::try_from(text.parse::<Timestamp>().unwrap().as_second()).unwrap();
        assert!(week.holds(at("2026-11-23T00:00:00Z")));
        assert!(!week.holds(at("2026-11-22T23:59:59Z")));
        assert!(week.holds(at("2026-11-29T23:59:59Z")));
        assert!(!week.holds(at("2026-11-30T00:00:00Z")));
    }

    #[test]
    fn what_is_no_week_is_refused_with_an_example() {
        for text in ["2026-48", "2026-W60", "2026-W4", "W48", "2026-W00"] {
            let refused = text.parse::<Week>().unwrap_err().to_string();
            assert!(refused.contains("such as 2026-W48"), "{refused}");
        }
    }
}
