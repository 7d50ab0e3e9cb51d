//! Weeks of ISO 8601 in UTC: from Monday, 00:00:00, to the next Monday, which is not part of it.

use std::{fmt, str::FromStr};

use jiff::{
    Timestamp,
    civil::{ISOWeekDate, Weekday},
    tz::TimeZone,
};

/// Seconds of a week.
const SECONDS: u64 = 7 * 24 * 3600;

/// A week. Earlier ones are less.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Week {
    year: i16,
    week: i8,
}

/// A text or a number that names no week.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no week: write the year and the week of ISO 8601, such as 2026-W48")]
pub struct InvalidWeek(String);

impl Week {
    /// The week in which `seconds` (Unix time) lies; the last one that can be named for anything later.
    #[must_use]
    pub fn of(seconds: u64) -> Self {
        let second = i64::try_from(seconds).unwrap_or(i64::MAX);
        let date = Timestamp::from_second(second)
            .unwrap_or(Timestamp::MAX)
            .to_zoned(TimeZone::UTC)
            .iso_week_date();
        Self {
            year: date.year(),
            week: date.week(),
        }
    }

    /// Its first second, in Unix time.
    #[must_use]
    pub fn from(self) -> u64 {
        ISOWeekDate::new(self.year, self.week, Weekday::Monday)
            .and_then(|monday| monday.date().to_zoned(TimeZone::UTC))
            .ok()
            .and_then(|begin| u64::try_from(begin.timestamp().as_second()).ok())
            .unwrap_or(0)
    }

    /// The first second after it, in Unix time.
    #[must_use]
    pub fn until(self) -> u64 {
        self.from() + SECONDS
    }

    /// Whether `seconds` (Unix time) lie in it.
    #[must_use]
    pub fn holds(self, seconds: u64) -> bool {
        (self.from()..self.until()).contains(&seconds)
    }

    /// The week after it.
    #[must_use]
    pub fn next(self) -> Self {
        Self::of(self.until())
    }

    /// Year × 100 + week, as statements on chain have it: 202648.
    #[must_use]
    pub fn number(self) -> u32 {
        u32::try_from(i32::from(self.year) * 100 + i32::from(self.week)).unwrap_or(0)
    }

    /// The week of a [`Self::number`].
    pub fn from_number(number: u32) -> Result<Self, InvalidWeek> {
        let parts = (i16::try_from(number / 100), i8::try_from(number % 100));
        if let (Ok(year), Ok(week)) = parts
            && let Some(named) = Self::named(year, week)
        {
            return Ok(named);
        }
        Err(InvalidWeek(number.to_string()))
    }

    fn named(year: i16, week: i8) -> Option<Self> {
        // Before 1970 there is no Unix time without a sign.
        let monday = ISOWeekDate::new(year, week, Weekday::Monday).ok()?;
        let begin = monday.date().to_zoned(TimeZone::UTC).ok()?.timestamp();
        (begin.as_second() >= 0).then_some(Self { year, week })
    }
}

impl fmt::Display for Week {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04}-W{:02}", self.year, self.week)
    }
}

impl FromStr for Week {
    type Err = InvalidWeek;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parsed = text
            .split_once("-W")
            .filter(|(year, week)| {
                (year.len(), week.len()) == (4, 2) && digits(year) && digits(week)
            })
            .and_then(|(year, week)| Self::named(year.parse().ok()?, week.parse().ok()?));
        parsed.ok_or_else(|| InvalidWeek(text.to_owned()))
    }
}

fn digits(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(text: &str) -> u64 {
        let stamp: Timestamp = text.parse().unwrap();
        u64::try_from(stamp.as_second()).unwrap()
    }

    #[test]
    fn a_week_begins_on_monday_in_utc() {
        let week: Week = "2026-W48".parse().unwrap();
        assert_eq!(
            (week.number(), week.to_string()),
            (202_648, "2026-W48".to_owned())
        );
        assert_eq!(week.from(), at("2026-11-23T00:00:00Z"));
        assert!(!week.holds(at("2026-11-22T23:59:59Z")));
        assert!(week.holds(at("2026-11-29T23:59:59Z")));
        assert!(!week.holds(at("2026-11-30T00:00:00Z")));
    }

    #[test]
    fn a_year_may_have_53_weeks_and_begin_in_the_one_before() {
        assert_eq!(Week::of(at("2027-01-03T12:00:00Z")).to_string(), "2026-W53");
        assert_eq!(Week::of(at("2024-12-30T00:00:00Z")).to_string(), "2025-W01");
        assert_eq!(
            "2026-W53".parse::<Week>().unwrap().next().to_string(),
            "2027-W01"
        );
    }

    #[test]
    fn what_is_no_week_is_refused_with_an_example() {
        for text in [
            "", "2026", "2026-48", "2026-W4", "2026-W54", "2026-W00", "26-W48", "1969-W01",
            "2026-W+1", "x-W01",
        ] {
            let refused = text.parse::<Week>().unwrap_err().to_string();
            assert!(refused.contains("such as 2026-W48"), "{text}: {refused}");
        }
        assert!(Week::from_number(202_654).is_err() && Week::from_number(u32::MAX).is_err());
    }

    proptest! {
        #[test]
        fn every_second_lies_in_the_week_that_is_named_after_it(second in 0_u64..200_000_000_000) {
            let week = Week::of(second);
            prop_assert!(week.holds(second));
            prop_assert!(!week.next().holds(second) && week.next() > week);
            prop_assert_eq!(week.next().from(), week.until());
            prop_assert_eq!(Week::from_number(week.number()), Ok(week));
            prop_assert_eq!(week.to_string().parse::<Week>(), Ok(week));
        }
    }
}
