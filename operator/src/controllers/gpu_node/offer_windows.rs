//! When the windows of mode `Scheduled` are open. Pure.
//!
//! A window opens at the times of a cron expression and stays open for its duration; the node is on offer while any of them is
//! open. The expression is read on the clock of the window's time zone. Where that clock is set forward, a window whose hour
//! is left out opens at once when the clock goes on; where it is set back, it opens the first time only. Expressions for every
//! hour (`*` or `*/2` as hour) follow the time that passes instead. That is what cron does.

use cronexpr::{Crontab, FallbackTimezoneOption, ParseOptions};
use gridstake_crds::gpu_node::OfferWindow;
use jiff::tz::{AmbiguousOffset, TimeZone};
use k8s_openapi::jiff::{SignedDuration, Timestamp};

/// How many windows in a row are followed to find out when the last of them closes.
const MOST_IN_A_ROW: usize = 16;
/// More than the clock of any time zone is ever set by.
const CLOCK_CHANGE: SignedDuration = SignedDuration::from_hours(26);
/// The zone of a window that names none.
const UTC: &str = "UTC";

/// A field of a cron expression: its name, and what it may hold.
const FIELDS: [(&str, &str); 5] = [
    ("minute", "0-59"),
    ("hour", "0-23"),
    ("day of the month", "1-31"),
    ("month", "1-12 or JAN-DEC"),
    ("weekday", "0-7 or SUN-SAT, where 0 and 7 are Sunday"),
];

/// Where the windows of a node stand at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Whether one of them is open.
    pub is_open: bool,
    /// When that is to be asked again: where none is open, when the next one opens.
    pub changes_at: Timestamp,
    /// When the last of those that follow one another closes. `None`: none is open, or they follow one another for longer than
    /// is looked ahead.
    pub closes_at: Option<Timestamp>,
}

/// Why a window cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WindowFault {
    /// The expression has not five fields.
    #[error(
        "spec.windows[{window}].cron: {count} fields; write five, separated by spaces: minute hour day month weekday, such as \"0 20 * * 1-5\""
    )]
    Fields {
        /// Which window, counted from 0.
        window: usize,
        /// How many fields it has.
        count: usize,
    },
    /// A field cannot be read.
    #[error(
        "spec.windows[{window}].cron: the {} {text:?} cannot be read: {why}; write {}, lists (1,3), rising ranges (1-5) or steps (*/2) of them",
        .field.0,
        .field.1
    )]
    Field {
        /// Which window, counted from 0.
        window: usize,
        /// The field's name, and what it may hold.
        field: (&'static str, &'static str),
        /// The field.
        text: String,
        /// The parser's words.
        why: String,
    },
    /// There is no such day.
    #[error(
        "spec.windows[{window}].cron: no day of the next four years is {cron:?}; write a day that the month has"
    )]
    Never {
        /// Which window, counted from 0.
        window: usize,
        /// The expression.
        cron: String,
    },
    /// There is no such time zone.
    #[error(
        "spec.windows[{window}].timeZone: there is no time zone {zone:?}; write a name of the IANA database, such as \"Europe/Berlin\" or \"UTC\""
    )]
    Zone {
        /// Which window, counted from 0.
        window: usize,
        /// What stands there.
        zone: String,
    },
}

/// Where `windows` stand at `now`.
///
/// # Errors
/// When one of them cannot be read: the first.
pub fn standing(windows: &[OfferWindow], now: Timestamp) -> Result<Standing, WindowFault> {
    let timetables: Vec<Timetable> = windows
        .iter()
        .enumerate()
        .map(|(window, spec)| Timetable::read(window, spec))
        .collect::<Result<_, _>>()?;
    let mut opens_at = Timestamp::MAX;
    let mut closes_at = None;
    for (window, timetable) in timetables.iter().enumerate() {
        let never = || WindowFault::Never {
            window,
            cron: windows[window].cron.clone(),
        };
        opens_at = opens_at.min(timetable.next(now).ok_or_else(never)?);
        closes_at = closes_at.max(timetable.closes_after(now));
    }
    let Some(mut closes) = closes_at else {
        return Ok(Standing {
            is_open: false,
            changes_at: opens_at,
            closes_at: None,
        });
    };
    for _ in 0..MOST_IN_A_ROW {
        let later = timetables
            .iter()
            .filter_map(|timetable| timetable.closes_after(closes))
            .max();
        match later {
            Some(later) => closes = later,
            None => {
                return Ok(Standing {
                    is_open: true,
                    changes_at: closes,
                    closes_at: Some(closes),
                });
            }
        }
    }
    Ok(Standing {
        is_open: true,
        changes_at: closes,
        closes_at: None,
    })
}

/// A window that could be read.
struct Timetable {
    /// Finds times on its zone's clock, as if that were UTC. The library's own search in a zone does not end where a clock is set
    /// back by half an hour (1.7.0, Lord Howe): it rounds to hours and finds itself where it was.
    crontab: Crontab,
    zone: TimeZone,
    /// Whether the times are those of a clock on the wall, and not of every so many hours.
    is_by_the_clock: bool,
    duration: SignedDuration,
}

impl Timetable {
    fn read(window: usize, spec: &OfferWindow) -> Result<Self, WindowFault> {
        let fields: Vec<&str> = spec.cron.split_ascii_whitespace().collect();
        if fields.len() != FIELDS.len() {
            return Err(WindowFault::Fields {
                window,
                count: fields.len(),
            });
        }
        for (position, (text, field)) in fields.iter().zip(FIELDS).enumerate() {
            let mut alone = ["*"; FIELDS.len()];
            alone[position] = text;
            if let Err(error) = parse(&alone.join(" ")) {
                return Err(WindowFault::Field {
                    window,
                    field,
                    text: (*text).to_owned(),
                    why: last_words(&error.to_string()),
                });
            }
        }
        let zone_name = spec.time_zone.as_deref().unwrap_or(UTC);
        let no_zone = |_| WindowFault::Zone {
            window,
            zone: zone_name.to_owned(),
        };
        let zone = TimeZone::get(zone_name).map_err(no_zone)?;
        let is_by_the_clock = !fields[1].starts_with('*');
        let crontab = parse(&fields.join(" ")).map_err(|_| WindowFault::Never {
            window,
            cron: spec.cron.clone(),
        })?;
        let duration = std::time::Duration::from(spec.duration);
        Ok(Self {
            crontab,
            zone,
            is_by_the_clock,
            duration: SignedDuration::try_from(duration).unwrap_or(SignedDuration::MAX),
        })
    }

    /// When it next opens after `moment`; `None` if that is never, or too late to be found.
    fn next(&self, moment: Timestamp) -> Option<Timestamp> {
        let mut search = self.on_its_clock(moment)?;
        loop {
            let (found, opens) = self.next_found(search)?;
            if opens > moment {
                return Some(opens);
            }
            // The clock shows this hour for the second time.
            search = found;
        }
    }

    /// When it closes, if it is open at `moment`.
    fn closes_after(&self, moment: Timestamp) -> Option<Timestamp> {
        let found_by_then = |search: Timestamp| {
            self.next_found(search)
                .filter(|(_, opens)| *opens <= moment)
        };
        // What opened earlier has closed.
        let earliest = moment
            .checked_sub(self.duration)
            .unwrap_or(Timestamp::UNIX_EPOCH);
        let mut last = found_by_then(self.on_its_clock(earliest)?)?;
        // Of all openings until `moment` the last one is looked for: none is found after `beyond`.
        let mut beyond = self.on_its_clock(moment)?.checked_add(CLOCK_CHANGE).ok()?;
        while let Some(later) = found_by_then(last.0) {
            last = later;
            let middle = last.0.checked_add(beyond.duration_since(last.0) / 2).ok()?;
            match found_by_then(middle) {
                Some(later) => last = later,
                None => beyond = middle,
            }
        }
        let closes = last.1.checked_add(self.duration).unwrap_or(Timestamp::MAX);
        (closes > moment).then_some(closes)
    }

    /// What its clock shows at `moment`, as if that were UTC: where to look for times in the expression.
    fn on_its_clock(&self, moment: Timestamp) -> Option<Timestamp> {
        if !self.is_by_the_clock {
            return Some(moment);
        }
        let shown = self.zone.to_datetime(moment);
        TimeZone::UTC.to_timestamp(shown).ok()
    }

    /// The first moment after `moment` at which its zone's clock shows a time of the expression: between two changes of the clock
    /// that is a search on a clock which is never set.
    fn next_as_time_passes(&self, moment: Timestamp) -> Option<Timestamp> {
        let (mut from, mut since) = (moment, moment);
        let mut offset = self.zone.to_offset(moment);
        loop {
            let shown = TimeZone::UTC.to_timestamp(offset.to_datetime(from)).ok()?;
            let found = self.crontab.find_next(shown).ok()?.timestamp();
            let opens = offset.to_timestamp(TimeZone::UTC.to_datetime(found)).ok()?;
            let mut changes = self.zone.following(since);
            let Some(change) = changes.next().filter(|c| c.timestamp() <= opens) else {
                return Some(opens);
            };
            since = change.timestamp();
            offset = change.offset();
            from = since.checked_sub(JUST_BEFORE).ok()?;
        }
    }

    /// The first time after `search`, as a moment of the search and as a moment of the world. Later ones of the former are
    /// never earlier ones of the latter.
    fn next_found(&self, search: Timestamp) -> Option<(Timestamp, Timestamp)> {
        if !self.is_by_the_clock {
            let opens = self.next_as_time_passes(search)?;
            return Some((opens, opens));
        }
        let found = self.crontab.find_next(search).ok()?.timestamp();
        let shown = TimeZone::UTC.to_datetime(found);
        let opens = match self.zone.to_ambiguous_timestamp(shown).offset() {
            AmbiguousOffset::Unambiguous { offset }
            | AmbiguousOffset::Fold { before: offset, .. } => offset.to_timestamp(shown).ok()?,
            // No clock shows this: it opens when the clock goes on.
            AmbiguousOffset::Gap { before, .. } => {
                let past = before.to_timestamp(shown).ok()?;
                let just_after = past.checked_add(SignedDuration::from_nanos(1)).ok()?;
                self.zone.preceding(just_after).next()?.timestamp()
            }
        };
        Some((found, opens))
    }
}

/// Before this much time a search begins that shall find the moment itself: times are looked for from the next minute on.
const JUST_BEFORE: SignedDuration = SignedDuration::from_secs(1);

fn parse(expression: &str) -> Result<Crontab, cronexpr::Error> {
    let mut options = ParseOptions::default();
    options.fallback_timezone_option = FallbackTimezoneOption::UTC;
    cronexpr::parse_crontab_with(expression, options)
}

/// The parser draws the expression and an arrow before it says what is wrong.
fn last_words(error: &str) -> String {
    let words = error.rsplit_once("^ ").map_or(error, |(_, words)| words);
    words.replace('\n', " ")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn window(cron: &str, duration: &str, zone: Option<&str>) -> OfferWindow {
        serde_json::from_value(json!({"cron": cron, "duration": duration, "timeZone": zone}))
            .unwrap()
    }

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    /// Whether one is open, and when that changes.
    fn seen(windows: &[OfferWindow], now: &str) -> (bool, String) {
        let standing = standing(windows, at(now)).unwrap();
        (standing.is_open, standing.changes_at.to_string())
    }

    fn berlin(cron: &str, duration: &str) -> Vec<OfferWindow> {
        vec![window(cron, duration, Some("Europe/Berlin"))]
    }

    #[test]
    fn a_window_is_open_from_the_time_in_its_zone_until_its_duration_is_over() {
        let nights = berlin("0 20 * * 1-5", "10h");
        // Friday, the 5th of June 2026; Berlin is two hours ahead of UTC.
        for (now, expected) in [
            ("2026-06-05T17:59:59Z", (false, "2026-06-05T18:00:00Z")),
            ("2026-06-05T18:00:00Z", (true, "2026-06-06T04:00:00Z")),
            ("2026-06-06T03:59:59Z", (true, "2026-06-06T04:00:00Z")),
            ("2026-06-06T04:00:00Z", (false, "2026-06-08T18:00:00Z")),
        ] {
            assert_eq!(
                seen(&nights, now),
                (expected.0, expected.1.to_owned()),
                "{now}"
            );
        }
        let utc = [window("30 4 1 JAN *", "1m", None)];
        assert_eq!(
            seen(&utc, "2027-01-01T04:30:30Z"),
            (true, "2027-01-01T04:31:00Z".to_owned())
        );
    }

    #[test]
    fn every_so_many_hours_are_found_also_where_the_clock_is_set_back_by_half_an_hour() {
        let howe = [window("0 */3 * * *", "1h", Some("Australia/Lord_Howe"))];
        // On the 5th of April 2026 the clock goes from 2:00 (UTC+11) to 1:30 (UTC+10:30).
        for (now, expected) in [
            ("2026-04-04T14:00:00Z", (false, "2026-04-04T16:30:00Z")),
            ("2026-04-04T15:00:00Z", (false, "2026-04-04T16:30:00Z")),
            ("2026-04-04T16:30:00Z", (true, "2026-04-04T17:30:00Z")),
        ] {
            assert_eq!(
                seen(&howe, now),
                (expected.0, expected.1.to_owned()),
                "{now}"
            );
        }
        // In Berlin the hour from 2:00 to 3:00 comes twice, and once not at all.
        let hours = berlin("0 * * * *", "10m");
        for (now, expected) in [
            ("2026-10-25T00:10:00Z", (false, "2026-10-25T01:00:00Z")),
            ("2026-10-25T01:10:00Z", (false, "2026-10-25T02:00:00Z")),
            ("2026-03-29T00:10:00Z", (false, "2026-03-29T01:00:00Z")),
        ] {
            assert_eq!(
                seen(&hours, now),
                (expected.0, expected.1.to_owned()),
                "{now}"
            );
        }
    }

    #[test]
    fn windows_that_follow_one_another_are_one() {
        let two = [
            window("0 20 * * *", "4h", None),
            window("0 0 * * *", "2h", None),
            window("0 1 * * *", "30m", None),
        ];
        let standing = standing(&two, at("2026-06-05T21:00:00Z")).unwrap();
        assert_eq!(standing.closes_at, Some(at("2026-06-06T02:00:00Z")));
        let always = [window("* * * * *", "1m", None)];
        let standing = super::standing(&always, at("2026-06-05T21:00:30Z")).unwrap();
        assert!(
            standing.is_open && standing.closes_at.is_none(),
            "{standing:?}"
        );
    }

    #[test]
    fn an_hour_that_the_clock_leaves_out_opens_when_it_goes_on() {
        // On the 29th of March 2026 it is 03:00 after 01:59 in Berlin, at 01:00 UTC.
        let window = berlin("30 2 * * *", "2h");
        assert_eq!(
            seen(&window, "2026-03-29T00:59:59Z"),
            (false, "2026-03-29T01:00:00Z".to_owned())
        );
        assert_eq!(
            seen(&window, "2026-03-29T01:00:00Z"),
            (true, "2026-03-29T03:00:00Z".to_owned())
        );
        assert_eq!(
            seen(&window, "2026-03-29T03:00:00Z"),
            (false, "2026-03-30T00:30:00Z".to_owned())
        );
        // Over the change it stays open for its duration.
        let over = berlin("0 1 * * *", "2h");
        assert_eq!(
            seen(&over, "2026-03-29T01:30:00Z"),
            (true, "2026-03-29T02:00:00Z".to_owned())
        );
    }

    #[test]
    fn an_hour_that_the_clock_shows_twice_opens_once() {
        // On the 25th of October 2026 it is 02:00 again after 02:59 in Berlin, at 01:00 UTC.
        let window = berlin("30 2 * * *", "10m");
        assert_eq!(
            seen(&window, "2026-10-25T00:30:00Z"),
            (true, "2026-10-25T00:40:00Z".to_owned())
        );
        assert_eq!(
            seen(&window, "2026-10-25T00:40:00Z"),
            (false, "2026-10-26T01:30:00Z".to_owned())
        );
        assert_eq!(
            seen(&window, "2026-10-25T01:30:00Z"),
            (false, "2026-10-26T01:30:00Z".to_owned())
        );
        // What opens every hour opens in both.
        let hourly = berlin("30 * * * *", "10m");
        assert_eq!(
            seen(&hourly, "2026-10-25T00:50:00Z"),
            (false, "2026-10-25T01:30:00Z".to_owned())
        );
    }

    #[test]
    fn a_window_that_cannot_be_read_is_named_with_what_is_wrong_and_what_would_be_right() {
        let good = window("0 20 * * *", "1h", None);
        for (bad, expected) in [
            (
                window("0 25 * * *", "1h", None),
                "spec.windows[1].cron: the hour \"25\" cannot be read: value must be in range 0..=23; found 25; write 0-23",
            ),
            (
                window("0 20 * * FRI-MON", "1h", None),
                "spec.windows[1].cron: the weekday \"FRI-MON\" cannot be read: range must be in ascending order; found 5-1; write 0-7 or SUN-SAT",
            ),
            (
                window("0 20 * FOO *", "1h", None),
                "the month \"FOO\" cannot be read: malformed expression; write 1-12 or JAN-DEC",
            ),
            (
                window("*/0 20 * * *", "1h", None),
                "the minute \"*/0\" cannot be read: step must be greater than 0",
            ),
            (
                window("0 20 0 * *", "1h", None),
                "the day of the month \"0\" cannot be read",
            ),
            (
                window("0 20 * *", "1h", None),
                "spec.windows[1].cron: 4 fields; write five",
            ),
            (
                window("0 20 * * * *", "1h", None),
                "spec.windows[1].cron: 6 fields; write five",
            ),
            (
                window("0 0 30 2 *", "1h", None),
                "spec.windows[1].cron: no day of the next four years is \"0 0 30 2 *\"",
            ),
            (
                window("0 20 * * *", "1h", Some("Europe/Berlim")),
                "spec.windows[1].timeZone: there is no time zone \"Europe/Berlim\"; write a name of the IANA database",
            ),
            (
                window("0 * * * *", "1h", Some("Mars")),
                "spec.windows[1].timeZone: there is no time zone \"Mars\"",
            ),
        ] {
            let fault = standing(&[good.clone(), bad], at("2026-06-05T12:00:00Z"))
                .unwrap_err()
                .to_string();
            assert!(fault.contains(expected) && !fault.contains('\n'), "{fault}");
        }
    }

    #[test]
    fn every_time_zone_of_the_documentation_is_in_the_program() {
        // The image has no files of time zones.
        let bundled = jiff::tz::TimeZoneDatabase::bundled();
        for zone in ["UTC", "Europe/Berlin", "America/New_York", "Asia/Kathmandu"] {
            assert!(bundled.get(zone).is_ok(), "{zone}");
        }
    }

    prop_compose! {
        fn any_window()(
            minute in 0_u32..60, hour in prop_oneof![Just("*".to_owned()), Just("*/3".to_owned()), (0_u32..24).prop_map(|hour| hour.to_string())],
            weekday in prop_oneof![Just("*".to_owned()), (0_u32..7).prop_map(|day| day.to_string())],
            minutes in 1_u32..3000,
            zone in prop_oneof![Just(None), Just(Some("Europe/Berlin")), Just(Some("Australia/Lord_Howe")), Just(Some("America/New_York"))],
        ) -> OfferWindow {
            window(&format!("{minute} {hour} * * {weekday}"), &format!("{minutes}m"), zone)
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

        #[test]
        fn nothing_changes_before_the_moment_that_is_told_and_something_does_then(
            windows in prop::collection::vec(any_window(), 1..4), second in 0_i64..31_536_000, share in 0_i64..1000,
        ) {
            let now = Timestamp::from_second(1_767_225_600 + second).unwrap();
            let first = standing(&windows, now).unwrap();
            prop_assert!(first.changes_at > now);
            let span = first.changes_at.duration_since(now).as_secs();
            let between = Timestamp::from_second(now.as_second() + span * share / 1000).unwrap();
            prop_assert_eq!(standing(&windows, between).unwrap().is_open, first.is_open);
            if !first.is_open || first.closes_at.is_some() {
                let then = standing(&windows, first.changes_at).unwrap();
                prop_assert_eq!(then.is_open, !first.is_open);
            }
        }

        #[test]
        fn a_window_is_open_exactly_where_one_of_its_openings_is_not_over(window in any_window(), second in 0_i64..31_536_000) {
            let now = Timestamp::from_second(1_767_225_600 + second).unwrap();
            let timetable = Timetable::read(0, &window).unwrap();
            let mut opens = now - timetable.duration - SignedDuration::from_secs(1);
            let mut is_open = false;
            while let Some(next) = timetable.next(opens).filter(|next| *next <= now) {
                is_open |= next + timetable.duration > now;
                opens = next;
            }
            prop_assert_eq!(timetable.closes_after(now).is_some(), is_open);
        }
    }
}
