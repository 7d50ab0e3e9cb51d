//! The log of what was seen against one device. Pure.
//!
//! Faults of the same kind, and Xids of the same number, are one while no more than [`GAP_MS`] lie between two sightings.
//! At most [`FAULTS_MAX`] are kept, each for [`KEPT_MS`] after its last sighting.
//!
//! Inside, time is the boot's: nobody can set it. Each fault takes the wall clock's word once, when it begins, and is told by
//! that; so a clock that is set later changes nothing that was told. What is told of a fault stands still between
//! [`Log::settle`]s, so that one that lasts is no write each second.

use gridstake_crds::gpu_node::{DeviceFault, DeviceFaultKind};
use serde::{Deserialize, Serialize};

use crate::clock::{Anchor, BootMillis};

/// The schema's bound.
pub const FAULTS_MAX: usize = 16;
/// A sighting that follows the one before after more milliseconds begins another fault.
pub const GAP_MS: u64 = 60_000;
/// How long a fault is kept after its last sighting, in milliseconds: 24 h.
pub const KEPT_MS: u64 = 24 * 3_600_000;
/// How often is told of a fault that lasts, in milliseconds: 5 min. Its begin and its end are told at once.
pub const TOLD_EVERY_MS: u64 = 300_000;

/// What was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct What {
    /// Of which kind.
    pub kind: DeviceFaultKind,
    /// The Xid's number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub xid: Option<u32>,
}

impl What {
    /// An Xid.
    #[must_use]
    pub fn xid(number: u32) -> Self {
        Self {
            kind: DeviceFaultKind::Xid,
            xid: Some(number),
        }
    }

    /// Anything but an Xid.
    #[must_use]
    pub fn of(kind: DeviceFaultKind) -> Self {
        Self { kind, xid: None }
    }

    /// Whether each sighting is an event of its own, and not the same trouble that is still there.
    fn is_event(self) -> bool {
        matches!(
            self.kind,
            DeviceFaultKind::Xid | DeviceFaultKind::EccUncorrectable
        )
    }
}

/// One fault. Moments are milliseconds since this boot, below 0 before it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    #[serde(flatten)]
    what: What,
    first: i64,
    last: i64,
    count: u32,
    /// Unix milliseconds of the boot, as the wall clock had it when the fault began.
    anchor: i64,
    /// Seen before the node was booted.
    #[serde(default)]
    before_boot: bool,
    /// What is told of `last` and `count`, and since when.
    told: Told,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Told {
    last: i64,
    count: u32,
    at: i64,
}

impl Entry {
    fn tell(&mut self, at: i64) {
        self.told = Told {
            last: self.last,
            count: self.count,
            at,
        };
    }

    fn is_told(&self) -> bool {
        self.told.last == self.last && self.told.count == self.count
    }

    fn as_told(&self) -> DeviceFault {
        let unix = |moment: i64| u64::try_from(self.anchor.saturating_add(moment)).unwrap_or(0);
        DeviceFault {
            kind: self.what.kind,
            xid: self.what.xid,
            first_ms: unix(self.first),
            last_ms: unix(self.told.last),
            count: self.told.count,
        }
    }
}

/// What was seen against one device.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Log(Vec<Entry>);

impl Log {
    /// Takes in `count` sightings of `what` from the first to the last moment of `span`. True if that begins a fault.
    pub fn see(
        &mut self,
        what: What,
        span: (BootMillis, BootMillis),
        count: u32,
        anchor: Anchor,
    ) -> bool {
        let (first, last) = (signed(span.0), signed(span.1));
        let again = self.0.iter_mut().rev().find(|entry| {
            entry.what == what
                && !entry.before_boot
                && first.saturating_sub(entry.last) <= i64::try_from(GAP_MS).unwrap_or(i64::MAX)
        });
        if let Some(entry) = again {
            entry.last = entry.last.max(last);
            entry.count = entry.count.saturating_add(count);
            return false;
        }
        let count = count.max(1);
        self.0.push(Entry {
            what,
            first,
            last,
            count,
            anchor: signed(BootMillis(anchor.unix_ms(BootMillis(0)))),
            before_boot: false,
            told: Told {
                last,
                count,
                at: last,
            },
        });
        self.bound();
        true
    }

    /// Makes room: of what has the most faults, the oldest goes. So no kind of fault can crowd out another.
    fn bound(&mut self) {
        while self.0.len() > FAULTS_MAX {
            let like = |what: What| self.0.iter().filter(|entry| entry.what == what).count();
            let victim = (0..self.0.len()).max_by_key(|at| {
                let entry = &self.0[*at];
                (like(entry.what), std::cmp::Reverse(entry.last))
            });
            if let Some(at) = victim {
                self.0.remove(at);
            }
        }
    }

    /// Forgets what is too old, and tells of what has gone on: of events with `all`; of what lasts every
    /// [`TOLD_EVERY_MS`] and when it is over.
    pub fn settle(&mut self, now: BootMillis, all: bool) {
        let now = signed(now);
        let since = |moment: i64| u64::try_from(now.saturating_sub(moment)).unwrap_or(0);
        self.0.retain(|entry| since(entry.last) <= KEPT_MS);
        for entry in self.0.iter_mut().filter(|entry| !entry.is_told()) {
            let is_due = if entry.what.is_event() {
                all
            } else {
                since(entry.told.at) >= TOLD_EVERY_MS || since(entry.last) > GAP_MS
            };
            if is_due {
                entry.tell(now);
            }
        }
    }

    /// What is told, the newest first.
    #[must_use]
    pub fn told(&self) -> Vec<DeviceFault> {
        let mut told: Vec<DeviceFault> = self.0.iter().map(Entry::as_told).collect();
        told.sort_by_key(|fault| std::cmp::Reverse((fault.last_ms, fault.first_ms)));
        told
    }

    /// What was seen since the node was booted, and last less than `millis` before `now`.
    pub fn since_boot_within(&self, now: BootMillis, millis: u64) -> impl Iterator<Item = What> {
        let now = signed(now);
        self.0
            .iter()
            .filter(move |entry| {
                let ago = u64::try_from(now.saturating_sub(entry.last)).unwrap_or(0);
                !entry.before_boot && ago < millis
            })
            .map(|entry| entry.what)
    }

    /// The node was booted since: this boot's clock began anew, at `anchor` by the wall clock. What was told stays told.
    pub fn rebooted(&mut self, now: BootMillis, anchor: Anchor) {
        let boot = signed(BootMillis(anchor.unix_ms(BootMillis(0))));
        for entry in &mut self.0 {
            let told_last = entry.anchor.saturating_add(entry.last);
            // By a wall clock that was set it may lie ahead.
            let last = told_last.saturating_sub(boot).min(signed(now));
            let shift = last.saturating_sub(entry.last);
            entry.anchor = entry.anchor.saturating_sub(shift);
            entry.first = entry.first.saturating_add(shift);
            entry.last = last;
            entry.before_boot = true;
            entry.tell(last);
        }
    }

    /// Takes over faults that are published and not here.
    pub fn recall(&mut self, published: &[DeviceFault], now: BootMillis, anchor: Anchor) {
        let boot = signed(BootMillis(anchor.unix_ms(BootMillis(0))));
        for fault in published {
            let what = What {
                kind: fault.kind,
                xid: fault.xid,
            };
            let known = self.0.iter().map(Entry::as_told).any(|told| {
                told.kind == fault.kind && told.xid == fault.xid && told.first_ms == fault.first_ms
            });
            if known {
                continue;
            }
            let unix = |ms: u64| i64::try_from(ms).unwrap_or(i64::MAX);
            let last = unix(fault.last_ms).saturating_sub(boot).min(signed(now));
            let anchor = unix(fault.last_ms).saturating_sub(last);
            self.0.push(Entry {
                what,
                first: unix(fault.first_ms).saturating_sub(anchor),
                last,
                count: fault.count,
                anchor,
                before_boot: last < 0,
                told: Told {
                    last,
                    count: fault.count,
                    at: last,
                },
            });
        }
        self.bound();
    }
}

fn signed(moment: BootMillis) -> i64 {
    i64::try_from(moment.0).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
