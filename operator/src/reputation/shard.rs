//! The histories of some GPUs, and how records and minutes are counted once. Pure.
//!
//! Counters and the note of what they hold are one object, written by compare-and-swap: a crash leaves both or neither.
//!
//! * **Records** cannot be noted by name for good: there are millions, and without an archive they are never removed. So the
//!   shard keeps a moment before which every record is dealt with, and, of the ten minutes after it, which records were counted.
//!   That moment is compared with the time at which a record was sealed, which never changes. A record that comes to be known
//!   later than that (an operator whose clock is that far behind, a watch that hangs for that long while its replica leads) is
//!   not counted: what is in doubt is rather lost than counted twice.
//! * **Minutes** are counted if they come after the last one that the shard has. Two replicas that both watch count once.
//!
//! The text, in a ConfigMap's `data`: `formula`, `before` (Unix seconds), `counted` (`<hash>:<Unix seconds>`, separated by spaces),
//! `minute` (the last one, since 1970), and `gpus`: a line for each, `<uuid> <owner> <history>`; see [`super::history`].

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

use super::{
    counted::Counted,
    history::{DAY_MILLIS, History},
    key::GpuKey,
    looks::Looks,
};

/// The version of the text.
const FORMAT: &str = "1";
/// For how long, in seconds, after the time of its seal a record may come to be known.
pub const LATEST_SECONDS: u64 = 600;
/// For how many days after it was last seen a GPU keeps its history.
pub const KEPT_DAYS: u32 = 365;
/// No text is longer than this many bytes; a ConfigMap takes 1 MiB.
const MOST_BYTES: usize = 960 * 1024;

/// Histories, and what they hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shard {
    /// What was sealed before this moment is dealt with, in Unix seconds.
    before: u64,
    /// What was sealed later and is counted, and when it was sealed.
    counted: BTreeMap<u64, u64>,
    /// The last minute that is counted, since 1970.
    minute: u64,
    gpus: BTreeMap<GpuKey, History>,
}

/// The text of a shard cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "data.{field} {problem}; restore it, or delete the ConfigMap to begin its GPUs' histories anew"
)]
pub struct Unreadable {
    field: &'static str,
    problem: String,
}

impl Shard {
    /// The history of `key`, if there is one.
    #[must_use]
    pub fn history(&self, key: &GpuKey) -> Option<&History> {
        self.gpus.get(key)
    }

    /// Whether `record` is still to be counted here. Asked of the shard that holds one of its GPUs.
    #[must_use]
    pub fn is_news(&self, record: &Counted) -> bool {
        record.sealed_at >= self.before && !self.counted.contains_key(&record.id)
    }

    /// Counts what is not counted yet of `records` and `looks`, at `now` in Unix seconds. `index` is the shard's own: of the GPUs
    /// of others nothing is taken. `None` if there is nothing to count.
    #[must_use]
    pub fn with<'a>(
        &self,
        index: usize,
        records: impl IntoIterator<Item = &'a Counted>,
        looks: impl IntoIterator<Item = &'a Looks>,
        now: u64,
    ) -> Option<Self> {
        let mut next = self.clone();
        let mut has_changed = false;
        for record in records {
            if next.is_news(record) && next.count(index, record) {
                has_changed = true;
            }
        }
        for looks in looks {
            if looks.from > next.minute {
                next.look(index, looks);
                has_changed = true;
            }
        }
        if !has_changed {
            return None;
        }
        next.before = next.before.max(now.saturating_sub(LATEST_SECONDS));
        let before = next.before;
        next.counted.retain(|_, sealed_at| *sealed_at >= before);
        let today = day_of(now);
        next.gpus
            .retain(|_, history| history.last_day().saturating_add(KEPT_DAYS) >= today);
        next.fit(MOST_BYTES, today);
        Some(next)
    }

    /// Whether anything of `record` concerns this shard.
    fn count(&mut self, index: usize, record: &Counted) -> bool {
        let day = day_of(record.sealed_at);
        let mut own = record
            .credits
            .iter()
            .filter(|(key, _)| key.shard() == index)
            .peekable();
        if own.peek().is_none() {
            return false;
        }
        for (key, credit) in own {
            let history = self.gpus.entry(key.clone()).or_default();
            history.note(day, credit.ended, credit.served_millis);
        }
        self.counted.insert(record.id, record.sealed_at);
        true
    }

    fn look(&mut self, index: usize, looks: &Looks) {
        self.minute = looks.to;
        for (key, days) in &looks.seen {
            if key.shard() != index {
                continue;
            }
            let history = self.gpus.entry(key.clone()).or_default();
            for (day, seen) in days {
                history.note(*day, *seen, 0);
            }
        }
    }

    /// Lets go of histories until the text takes at most `most` bytes: first of what never served and was not seen today, then of
    /// what was seen longest ago. An agent that shows new UUIDs without end only drives out its own.
    fn fit(&mut self, most: usize, today: u32) {
        let mut over = self.bytes().saturating_sub(most);
        if over == 0 {
            return;
        }
        let mut order: Vec<(bool, bool, u32, GpuKey)> = self
            .gpus
            .iter()
            .map(|(key, history)| {
                let seen = history.last_day();
                (
                    history.served_millis() > 0,
                    seen >= today,
                    seen,
                    key.clone(),
                )
            })
            .collect();
        order.sort();
        for (.., key) in order {
            if over == 0 {
                return;
            }
            if let Some(history) = self.gpus.remove(&key) {
                over = over.saturating_sub(line(&key, &history).len());
            }
        }
    }

    /// As the `data` of a ConfigMap.
    #[must_use]
    pub fn data(&self) -> BTreeMap<String, String> {
        let counted: Vec<String> = self
            .counted
            .iter()
            .map(|(id, sealed_at)| format!("{id:016x}:{sealed_at}"))
            .collect();
        let mut gpus = String::new();
        for (key, history) in &self.gpus {
            gpus.push_str(&line(key, history));
        }
        [
            ("format", FORMAT.to_owned()),
            ("before", self.before.to_string()),
            ("counted", counted.join(" ")),
            ("minute", self.minute.to_string()),
            ("gpus", gpus),
        ]
        .into_iter()
        .map(|(field, text)| (field.to_owned(), text))
        .collect()
    }

    /// Reads what [`data`](Self::data) has written.
    ///
    /// # Errors
    /// When it is anything else.
    pub fn read(data: &BTreeMap<String, String>) -> Result<Self, Unreadable> {
        let wrong = |field: &'static str| move |problem: String| Unreadable { field, problem };
        let text = |field: &'static str| data.get(field).map(String::as_str).unwrap_or_default();
        let number = |field: &'static str| {
            let text = text(field);
            text.parse::<u64>()
                .map_err(|_| wrong(field)(format!("is {text:?} and should be a number")))
        };
        if text("format") != FORMAT {
            let problem = format!(
                "is {:?}, and this version knows {FORMAT:?} only",
                text("format")
            );
            return Err(wrong("format")(problem));
        }
        let mut counted = BTreeMap::new();
        for entry in text("counted").split_whitespace() {
            let read = entry
                .split_once(':')
                .and_then(|(id, at)| Some((u64::from_str_radix(id, 16).ok()?, at.parse().ok()?)));
            let (id, at) = read
                .ok_or_else(|| wrong("counted")(format!("holds {entry:?}, which is no record")))?;
            counted.insert(id, at);
        }
        let mut gpus = BTreeMap::new();
        for line in text("gpus").lines() {
            let (key, history) = read_line(line)
                .map_err(|why| wrong("gpus")(format!("has the line {line:?}, which {why}")))?;
            gpus.insert(key, history);
        }
        Ok(Self {
            before: number("before")?,
            counted,
            minute: number("minute")?,
            gpus,
        })
    }

    /// How many bytes its text has.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.data().values().map(String::len).sum()
    }

    /// Whose histories it holds.
    #[must_use]
    pub fn keys(&self) -> BTreeSet<&GpuKey> {
        self.gpus.keys().collect()
    }
}

/// The day in which a Unix second lies, since 1970.
#[must_use]
pub fn day_of(second: u64) -> u32 {
    u32::try_from(second / (DAY_MILLIS / 1000)).unwrap_or(u32::MAX)
}

fn line(key: &GpuKey, history: &History) -> String {
    let mut line = String::new();
    let _ = writeln!(line, "{} {} {history}", key.uuid, key.owner);
    line
}

fn read_line(line: &str) -> Result<(GpuKey, History), String> {
    let mut parts = line.splitn(3, ' ');
    let uuid = parts.next().unwrap_or_default();
    let owner = parts
        .next()
        .unwrap_or_default()
        .parse()
        .map_err(|error: super::key::NoOwner| error.to_string())?;
    let history = parts
        .next()
        .unwrap_or_default()
        .parse()
        .map_err(|error: super::history::NoHistory| error.to_string())?;
    let key = GpuKey::new(owner, uuid).ok_or("names no GPU")?;
    Ok((key, history))
}

#[cfg(test)]
#[path = "shard_tests.rs"]
mod tests;
