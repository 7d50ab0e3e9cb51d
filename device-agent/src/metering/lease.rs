//! One lease as this node's agent sees it: a pod's processes, its devices, and the chain of its open slice. Pure.
//!
//! All times are Unix milliseconds through the lease's anchor, so that a clock that is set changes no span of it. What is
//! to be stated is cut into [`Statement`]s first and signed when there is a key; so nothing waits for the key but the
//! signature.

use gridstake_crds::usage_record::{Checkpoint, Evidence, EvidenceGap, GapReason};
use serde::{Deserialize, Serialize};

use super::{
    chain::{self, Statement},
    device::{Metered, Reading},
    integrals::Integrals,
    records::Record,
    share::Part,
};
use crate::{
    clock::{Anchor, BootMillis},
    process::ProcessId,
};

mod sign;

/// So many of the oldest processes are remembered, to be known again after the agent was away.
pub const REMEMBERED: usize = 8;

/// So many statements may wait for a key. Each return of the agent adds two; a key that stays away must not fill the disk.
const DUE_MAX: usize = 32;

/// How far a start that was computed by another anchor may differ, in milliseconds.
const SAME_START_MS: u64 = 1000;

/// What is known of a pod at this moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodSeen {
    /// Its UID.
    pub uid: String,
    /// The live processes of its containers, the oldest first.
    pub alive: Vec<ProcessId>,
    /// When one of them was last seen to exit.
    pub last_exit: Option<BootMillis>,
}

/// A lease.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Lease {
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub pod: String,
    anchor: Anchor,
    /// Counts how often this agent lost sight of the lease.
    epoch: u64,
    /// Its processes, once there was one.
    pub run: Option<Run>,
    /// Its devices, once the kubelet named them.
    devices: Option<Vec<Metered>>,
    gaps: Vec<EvidenceGap>,
    /// The most foreign processes since the slice began.
    foreign: Option<u32>,
    /// The slice that is open.
    pub slice: Option<Slice>,
}

/// The processes of a lease.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Run {
    /// The pod's UID.
    pub pod_uid: String,
    started_ms: u64,
    /// When a process was last seen alive.
    pub seen_ms: u64,
    /// When the last one exited.
    pub ended_ms: Option<u64>,
    /// The oldest that were alive then.
    alive: Vec<ProcessId>,
    /// Whether this agent has had it in sight since it started.
    #[serde(skip)]
    in_sight: bool,
}

/// The open slice.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Slice {
    /// Its UsageRecord's name.
    pub record: String,
    index: u32,
    /// Where it begins, if it is not the first.
    from_ms: Option<u64>,
    /// The address of the key that signed the checkpoints.
    key: Option<String>,
    checkpoints: Vec<Checkpoint>,
    /// The most foreign processes, as far as stated.
    foreign: Option<u32>,
    /// Cut and not signed yet.
    due: Vec<Statement>,
    next_seq: u64,
    /// Until where it is cut; `None` before its first statement.
    cut_ms: Option<u64>,
    /// Whether its end is cut.
    end_is_cut: bool,
}

impl Slice {
    /// Makes one statement of the two that have waited longest. Nobody has seen either, so that those after them in the same
    /// epoch are numbered anew; `epoch` is the one that is running.
    fn fold_due(&mut self, epoch: u64) {
        let (Some(earlier), Some(later)) = (self.due.first().copied(), self.due.get(1).copied())
        else {
            return;
        };
        let is_one_epoch = earlier.epoch == later.epoch;
        self.due.remove(0);
        self.due[0] = Statement {
            seq: if is_one_epoch { earlier.seq } else { later.seq },
            from_ms: earlier.from_ms,
            counters: chain::both(earlier.counters, later.counters),
            ..later
        };
        if is_one_epoch {
            let same = self.due.iter_mut().skip(1);
            for next in same.filter(|next| next.epoch == later.epoch) {
                next.seq -= 1;
            }
            if epoch == later.epoch {
                self.next_seq -= 1;
            }
        }
    }
}

impl Lease {
    /// The lease of a record that has just appeared.
    #[must_use]
    pub fn new(record: &Record, anchor: Anchor) -> Self {
        Self {
            namespace: record.namespace.clone(),
            pod: record.pod.clone(),
            anchor,
            epoch: 0,
            run: None,
            devices: None,
            gaps: Vec::new(),
            foreign: None,
            slice: None,
        }
    }

    /// Opens the slice of a record, if it is a later one than the one that is open. What was measured and not stated yet
    /// goes into its first statement.
    pub fn open(&mut self, name: &str, record: &Record) {
        let opened = self
            .slice
            .as_ref()
            .is_some_and(|open| open.index >= record.slice);
        if opened {
            return;
        }
        self.foreign = None;
        for device in self.devices.iter_mut().flatten() {
            device.stated = Integrals::default();
        }
        self.slice = Some(Slice {
            record: name.to_owned(),
            index: record.slice,
            from_ms: record.from_ms,
            key: None,
            checkpoints: Vec::new(),
            foreign: None,
            due: Vec::new(),
            next_seq: 0,
            cut_ms: None,
            end_is_cut: false,
        });
    }

    /// Takes over which devices the pod was given. They stay what they are for as long as the pod lives, and are not
    /// added to a chain that was begun without them.
    pub fn give(&mut self, parts: Option<&Vec<Part>>) {
        let chained = self.slice.as_ref().is_some_and(|slice| slice.key.is_some());
        if let (None, Some(parts), false) = (&self.devices, parts, chained) {
            self.devices = Some(parts.iter().map(Metered::new).collect());
        }
    }

    /// What it holds of GPUs while it runs.
    pub fn holds(&self) -> impl Iterator<Item = &Part> {
        let runs = self.run.as_ref().is_some_and(|run| run.ended_ms.is_none());
        let devices = self.devices.iter().flatten();
        devices.filter(move |_| runs).map(|device| &device.part)
    }

    /// Whether the kubelet has yet to name the devices of its running pod.
    #[must_use]
    pub fn lacks_devices(&self) -> bool {
        self.run.is_some() && self.devices.is_none()
    }

    /// After another boot of the node none of the processes exists any more, and the old anchor means nothing.
    pub fn rebooted(&mut self, anchor: Anchor) {
        self.anchor = anchor;
        if let Some(run) = &mut self.run {
            run.alive.clear();
        }
    }

    /// Looks at the pod.
    pub fn look(&mut self, pod: Option<&PodSeen>, at: BootMillis) {
        let now = self.anchor.unix_ms(at);
        let anchor = self.anchor;
        let pod = pod.filter(|pod| self.run.as_ref().is_none_or(|run| run.pod_uid == pod.uid));
        let alive = pod.map(|pod| pod.alive.as_slice()).unwrap_or_default();
        if self.run.is_none() {
            let (Some(pod), Some(first)) = (pod, alive.first()) else {
                return;
            };
            self.run = Some(Run {
                pod_uid: pod.uid.clone(),
                started_ms: anchor
                    .unix_ms(BootMillis::of_ticks(first.start_ticks))
                    .min(now),
                seen_ms: now,
                ended_ms: None,
                alive: Vec::new(),
                in_sight: true,
            });
        }
        if self.run.as_ref().is_some_and(|run| !run.in_sight) {
            self.regain(alive, now);
        }
        let Some(run) = &mut self.run else { return };
        if alive.is_empty() {
            let exit = pod
                .and_then(|pod| pod.last_exit)
                .map(|at| anchor.unix_ms(at));
            // A process whose exit was not seen may have ended right after it was last seen.
            run.ended_ms
                .get_or_insert(exit.unwrap_or(0).clamp(run.seen_ms, now.max(run.seen_ms)));
            return;
        }
        run.seen_ms = run.seen_ms.max(now);
        if alive.iter().take(REMEMBERED).ne(&run.alive) {
            run.alive = alive.iter().take(REMEMBERED).copied().collect();
        }
        // Between an init container and the next there may be none.
        if run.ended_ms.take().is_some()
            && let Some(slice) = &mut self.slice
        {
            slice.end_is_cut = false;
            self.cut(now);
        }
    }

    /// The agent was away, or has just taken over what it published before.
    fn regain(&mut self, alive: &[ProcessId], now: u64) {
        let Some(run) = &mut self.run else { return };
        run.in_sight = true;
        let (seen, ended) = (run.seen_ms, run.ended_ms.is_some());
        let bridged = alive.iter().any(|process| run.alive.contains(process));
        if ended && alive.is_empty() {
            return;
        }
        let begun = self
            .slice
            .as_ref()
            .is_some_and(|slice| slice.cut_ms.is_some());
        if begun && !ended {
            self.cut(seen);
        }
        self.lose(seen, now, GapReason::AgentAway, bridged);
        if let Some(run) = &mut self.run {
            run.seen_ms = if alive.is_empty() {
                seen
            } else {
                now.max(seen)
            };
        }
        if !alive.is_empty() {
            self.cut(now);
        }
    }

    /// Notes a gap, after which a new epoch begins.
    fn lose(&mut self, from_ms: u64, to_ms: u64, reason: GapReason, bridged: bool) {
        if from_ms < to_ms {
            let gap = EvidenceGap {
                from_ms,
                to_ms,
                reason,
                bridged,
            };
            chain::add_gap(&mut self.gaps, gap);
        }
        self.epoch += 1;
        if let Some(slice) = &mut self.slice {
            slice.next_seq = 0;
            slice.cut_ms = slice.cut_ms.map(|cut| cut.max(to_ms));
        }
    }

    /// Adds what a GPU shows, if the lease has a part of it and a process. A reading that follows the one before after
    /// more than `longest` milliseconds tells nothing of the time between.
    pub fn measure(&mut self, reading: &Reading<'_>, longest: u64) {
        let Some(run) = self.run.as_ref().filter(|run| run.ended_ms.is_none()) else {
            return;
        };
        let uid = run.pod_uid.as_str();
        for device in self.devices.iter_mut().flatten() {
            if device.part.gpu() != reading.gpu {
                continue;
            }
            let foreign = device.measure(reading, uid, longest);
            self.foreign = self.foreign.max(foreign);
        }
    }

    /// Cuts what is to be stated at `at`: the begin, the end, or what `every` milliseconds brought.
    pub fn cut_if_due(&mut self, every: u64) {
        let (Some(run), Some(slice)) = (&self.run, &self.slice) else {
            return;
        };
        if let Some(ended) = run.ended_ms {
            if !slice.end_is_cut {
                self.cut(ended);
                if let Some(slice) = &mut self.slice {
                    slice.end_is_cut = true;
                }
            }
            return;
        }
        let seen = run.seen_ms;
        let due = slice
            .cut_ms
            .is_none_or(|cut| seen >= cut.saturating_add(every));
        // While nothing can be signed one statement covers it all.
        if due && slice.due.is_empty() {
            self.cut(seen);
        }
    }

    /// Ends the span that is open at `to`, and begins the next.
    fn cut(&mut self, to: u64) {
        let (Some(run), Some(slice)) = (&self.run, &mut self.slice) else {
            return;
        };
        let from = slice.cut_ms.or(slice.from_ms).unwrap_or(run.started_ms);
        let to = to.max(from);
        let mut all = Integrals::default();
        for device in self.devices.iter_mut().flatten() {
            all = all.and(device.span);
            device.stated = device.stated.and(std::mem::take(&mut device.span));
        }
        slice.due.push(Statement {
            epoch: self.epoch,
            seq: slice.next_seq,
            from_ms: from,
            to_ms: to,
            counters: chain::stated(all.counters()),
        });
        slice.next_seq += 1;
        if slice.due.len() > DUE_MAX {
            slice.fold_due(self.epoch);
        }
        slice.cut_ms = Some(to);
        slice.foreign = self.foreign;
    }

    /// What is stated about the open slice, and the name of its record; `None` before its first statement.
    #[must_use]
    pub fn evidence(&self) -> Option<(&str, Evidence)> {
        let (run, slice) = (self.run.as_ref()?, self.slice.as_ref()?);
        let key = slice.key.clone()?;
        let begin = slice.from_ms.unwrap_or(0);
        let gaps = self.gaps.iter().filter(|gap| gap.to_ms > begin);
        let evidence = Evidence {
            pod_uid: run.pod_uid.clone(),
            key,
            devices: self.devices.iter().flatten().map(Metered::told).collect(),
            started_ms: Some(run.started_ms),
            ended_ms: run
                .ended_ms
                .filter(|_| slice.end_is_cut && slice.due.is_empty()),
            checkpoints: slice.checkpoints.clone(),
            gaps: gaps
                .map(|gap| EvidenceGap {
                    from_ms: gap.from_ms.max(begin),
                    ..gap.clone()
                })
                .collect(),
            foreign_processes: slice.foreign,
            sealed: None,
        };
        Some((&slice.record, evidence))
    }

    /// The head of the open chain, and until when a process was seen alive.
    #[must_use]
    pub fn head(&self) -> Option<(&str, &str, u64)> {
        let (run, slice) = (self.run.as_ref()?, self.slice.as_ref()?);
        let last = slice.checkpoints.last().filter(|_| slice.due.is_empty())?;
        let seen = run.ended_ms.unwrap_or(run.seen_ms);
        Some((&slice.record, &last.head, seen.max(last.to_ms)))
    }
}
