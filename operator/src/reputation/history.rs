//! A GPU's history, and its text. Pure.
//!
//! Text: `<GPU-milliseconds served> <day> <days>`, where `<day>` is the last one on which anything was noted, in days since 1970
//! (UTC), and `<days>` are that day and those before it, newest first, separated by commas: minutes watched, then, where they are
//! not 0, `-` minutes down, `+` attempts that ended well, `!` attempts that ended by the host's fault. `1440-12+5!1*2` is two such
//! days, one after the other.

use std::{collections::BTreeMap, fmt, str::FromStr};

/// How many days are looked at: the present one, and those before it.
pub const DAYS: u32 = 30;
/// Milliseconds of a day.
pub const DAY_MILLIS: u64 = 86_400_000;

/// What was noted of a GPU on one day, or on several.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Day {
    /// Minutes in which it should have been up and somebody watched.
    pub watched: u32,
    /// Those of them in which it was not.
    pub down: u32,
    /// Attempts on it that ended well, or by the tenant's fault.
    pub well: u32,
    /// Attempts on it that ended by the host's fault.
    pub faults: u32,
}

impl Day {
    /// Both together.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self {
            watched: self.watched.saturating_add(other.watched),
            down: self.down.saturating_add(other.down),
            well: self.well.saturating_add(other.well),
            faults: self.faults.saturating_add(other.faults),
        }
    }
}

/// What is known of a GPU of a provider.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History {
    served_millis: u64,
    last_day: u32,
    /// At most [`DAYS`], none of them older than `last_day` less as many.
    days: BTreeMap<u32, Day>,
}

impl History {
    /// GPU-milliseconds that it served without a fault of its host.
    #[must_use]
    pub const fn served_millis(&self) -> u64 {
        self.served_millis
    }

    /// The last day on which anything was noted, in days since 1970.
    #[must_use]
    pub const fn last_day(&self) -> u32 {
        self.last_day
    }

    /// Notes what happened on `day`, and that it served for `served_millis`.
    pub fn note(&mut self, day: u32, what: Day, served_millis: u64) {
        self.served_millis = self.served_millis.saturating_add(served_millis);
        self.last_day = self.last_day.max(day);
        let oldest = self.last_day.saturating_sub(DAYS - 1);
        if what != Day::default() && day >= oldest {
            let noted = self.days.entry(day).or_default();
            *noted = noted.plus(what);
        }
        self.days.retain(|day, _| *day >= oldest);
    }

    /// What was noted on `today` and the 29 days before it.
    #[must_use]
    pub fn lately(&self, today: u32) -> Day {
        self.days
            .range(today.saturating_sub(DAYS - 1)..=today)
            .fold(Day::default(), |sum, (_, day)| sum.plus(*day))
    }
}

impl fmt::Display for History {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} ", self.served_millis, self.last_day)?;
        let Some(oldest) = self.days.keys().next().copied() else {
            return f.write_str("0");
        };
        let mut separator = "";
        let mut day = self.last_day;
        loop {
            let what = self.days.get(&day).copied().unwrap_or_default();
            let mut alike = 1;
            while day > oldest && self.days.get(&(day - 1)).copied().unwrap_or_default() == what {
                day -= 1;
                alike += 1;
            }
            write!(f, "{separator}{}", what.watched)?;
            for (sign, count) in [('-', what.down), ('+', what.well), ('!', what.faults)] {
                if count > 0 {
                    write!(f, "{sign}{count}")?;
                }
            }
            if alike > 1 {
                write!(f, "*{alike}")?;
            }
            if day <= oldest {
                return Ok(());
            }
            (day, separator) = (day - 1, ",");
        }
    }
}

/// A text is no history.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("is no history: expected <GPU-milliseconds> <day> <days>")]
pub struct NoHistory;

impl FromStr for History {
    type Err = NoHistory;

    fn from_str(text: &str) -> Result<Self, NoHistory> {
        let mut parts = text.split(' ');
        let mut part = || parts.next().ok_or(NoHistory);
        let served_millis = part()?.parse().map_err(|_| NoHistory)?;
        let last_day: u32 = part()?.parse().map_err(|_| NoHistory)?;
        let mut days = BTreeMap::new();
        let mut back = 0;
        for token in part()?.split(',') {
            let (what, alike) = token.split_once('*').unwrap_or((token, "1"));
            let what = day(what)?;
            for _ in 0..alike.parse::<u32>().map_err(|_| NoHistory)?.min(DAYS) {
                if back >= DAYS {
                    return Err(NoHistory);
                }
                let day = last_day.checked_sub(back).ok_or(NoHistory)?;
                if what != Day::default() {
                    days.insert(day, what);
                }
                back += 1;
            }
        }
        if parts.next().is_some() {
            return Err(NoHistory);
        }
        Ok(Self {
            served_millis,
            last_day,
            days,
        })
    }
}

fn day(text: &str) -> Result<Day, NoHistory> {
    let (rest, faults) = count_after(text, '!')?;
    let (rest, well) = count_after(rest, '+')?;
    let (rest, down) = count_after(rest, '-')?;
    Ok(Day {
        watched: rest.parse().map_err(|_| NoHistory)?,
        down,
        well,
        faults,
    })
}

/// What comes before `sign`, and the count after it; 0 where there is none.
fn count_after(text: &str, sign: char) -> Result<(&str, u32), NoHistory> {
    match text.split_once(sign) {
        None => Ok((text, 0)),
        Some((rest, count)) => Ok((rest, count.parse().map_err(|_| NoHistory)?)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn what(watched: u32, down: u32, well: u32, faults: u32) -> Day {
        Day {
            watched,
            down,
            well,
            faults,
        }
    }

    #[test]
    fn histories_are_written_as_documented() {
        let mut history = History::default();
        assert_eq!(history.to_string(), "0 0 0");
        history.note(20_000, what(1440, 0, 0, 0), 3_600_000);
        history.note(20_001, what(1440, 0, 0, 0), 0);
        history.note(20_003, what(1440, 12, 5, 1), 0);
        assert_eq!(history.to_string(), "3600000 20003 1440-12+5!1,0,1440*2");
    }

    #[test]
    fn what_is_older_than_thirty_days_is_gone_and_the_time_served_stays() {
        let mut history = History::default();
        history.note(20_000, what(1440, 1440, 0, 3), 1000);
        assert_eq!(history.lately(20_029), what(1440, 1440, 0, 3));
        assert_eq!(history.lately(20_030), Day::default());
        history.note(20_030, what(1, 0, 0, 0), 1);
        assert_eq!(history.to_string(), "1001 20030 1");
        // A clock that was ahead for a while.
        history.note(20_000, what(5, 5, 5, 5), 1);
        assert_eq!(history.to_string(), "1002 20030 1");
    }

    #[test]
    fn what_is_no_history_is_not_read() {
        for text in [
            "",
            "1 2",
            "1 2 3 4",
            "x 2 3",
            "1 2 3-",
            "1 2 *3",
            "1 20000 1*31,1",
            "1 1 1*9",
        ] {
            assert_eq!(text.parse::<History>(), Err(NoHistory), "{text:?}");
        }
    }

    prop_compose! {
        fn notes()(
            notes in prop::collection::vec((20_000_u32..20_060, 0_u32..1500, 0_u32..9, 0_u32..9, 0_u32..3, 0_u64..1 << 40), 0..40),
        ) -> Vec<(u32, Day, u64)> {
            notes
                .into_iter()
                .map(|(day, watched, down, well, faults, served)| (day, what(watched, down.min(watched), well, faults), served))
                .collect()
        }
    }

    fn of(notes: &[(u32, Day, u64)]) -> History {
        let mut history = History::default();
        for (day, what, served) in notes {
            history.note(*day, *what, *served);
        }
        history
    }

    proptest! {
        #[test]
        fn a_history_is_read_as_it_was_written(notes in notes()) {
            let history = of(&notes);
            prop_assert_eq!(history.to_string().parse(), Ok(history));
        }

        #[test]
        fn in_which_order_and_in_how_many_pieces_it_is_noted_changes_nothing(notes in notes(), by: prop::sample::Index) {
            prop_assume!(!notes.is_empty());
            let mut turned = notes.clone();
            turned.rotate_left(by.index(notes.len()));
            // The newest day bounds what is kept, whenever it is noted.
            let (a, b) = (of(&notes), of(&turned));
            prop_assert_eq!(a.lately(a.last_day()), b.lately(b.last_day()));
            prop_assert_eq!(a.served_millis(), b.served_millis());
            let pieces: Vec<_> = notes
                .iter()
                .flat_map(|(day, what, served)| [
                    (*day, Day { watched: what.watched, ..Day::default() }, served / 3),
                    (*day, Day { watched: 0, ..*what }, served - served / 3),
                ])
                .collect();
            prop_assert_eq!(of(&pieces), a);
        }

        #[test]
        fn no_history_is_longer_than_its_place_in_a_config_map(notes in notes()) {
            prop_assert!(of(&notes).to_string().len() < 700);
        }
    }
}
