//! One lease as this node's agent sees it: a pod's processes, its devices, and the chain of its open slice. Pure.
//!
//! All times are Unix milliseconds through the lease's anchor, so that a clock that is set changes no span of it. What is
//! to be stated is cut into [`Statement`]s first and signed when there is a key; so nothing waits for the key but the
//! signature.

use gridstake_crds::usage_record::{
    Checkpoint, Counters, DeviceUse, Evidence, EvidenceGap, GapReason,
};
use gridstake_ledger::checkpoint::{Subject, devices_hash};
use serde::{Deserialize, Serialize};

use super::{
    chain::{self, SignError, Statement},
    integrals::{Increment, Integrals},
    records::Record,
    share::Part,
};
use crate::{
    clock::{Anchor, BootMillis},
    process::ProcessId,
    signing_key::SigningKey,
};

/// So many of the oldest processes are remembered, to be known again after the agent was away.
pub const REMEMBERED: usize = 8;

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

/// A device of a lease.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Metered {
    part: Part,
    /// Since the last statement.
    span: Integrals,
    /// In all statements of the slice.
    stated: Integrals,
    #[serde(skip)]
    last: Option<LastReading>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct LastReading {
    at: BootMillis,
    energy_millijoules: Option<u64>,
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

/// One GPU at this moment, in the words of metering.
#[derive(Debug)]
pub struct Reading<'a> {
    /// Its UUID.
    pub gpu: &'a str,
    /// When.
    pub at: BootMillis,
    /// Utilisation of the whole GPU.
    pub percent: Option<u32>,
    /// Memory in use on the whole GPU.
    pub memory_bytes: Option<u64>,
    /// Energy of the whole GPU since its driver was loaded.
    pub energy_millijoules: Option<u64>,
    /// Its processes; `None` if they could not be listed.
    pub users: Option<Vec<User<'a>>>,
    /// The weights of all parts of it that were given out.
    pub held: u64,
    /// The UIDs of the pods that hold a part; `None` while they are not all known.
    pub holders: Option<Vec<&'a str>>,
}

/// A process on a GPU.
#[derive(Clone, Copy, Debug)]
pub struct User<'a> {
    /// Its pod's UID; `None` for a process of the host.
    pub pod_uid: Option<&'a str>,
    /// Memory of the GPU that it holds.
    pub memory_bytes: Option<u64>,
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
            let metered = |part: &Part| Metered {
                part: part.clone(),
                span: Integrals::default(),
                stated: Integrals::default(),
                last: None,
            };
            self.devices = Some(parts.iter().map(metered).collect());
        }
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
        slice.cut_ms = Some(to);
        slice.foreign = self.foreign;
    }

    /// Signs what is due. `published` is what the API server holds of the slice. True if anything was stated.
    ///
    /// # Errors
    /// When the key does not sign.
    pub fn sign(
        &mut self,
        key: &SigningKey,
        published: Option<&Evidence>,
    ) -> Result<bool, SignError> {
        let (Some(run), Some(slice)) = (&self.run, &self.slice) else {
            return Ok(false);
        };
        // Every statement of a slice covers the same devices; only at the end it is too late to wait for them.
        if slice.due.is_empty() || (self.devices.is_none() && run.ended_ms.is_none()) {
            return Ok(false);
        }
        let address = key.address().to_string();
        let before = published.filter(|evidence| evidence.pod_uid == run.pod_uid);
        let is_ours = before.is_some_and(|before| self.is_ours(before, key));
        let last = |chain: &[Checkpoint]| chain.last().map(|last| last.to_ms);
        let (Some(_), Some(slice)) = (&self.run, &self.slice) else {
            return Ok(false);
        };
        if let Some(before) = before
            && (slice.key.is_none()
                || (is_ours && last(&before.checkpoints) > last(&slice.checkpoints)))
        {
            self.resume(before, is_ours);
        } else if slice.key.as_ref().is_some_and(|known| *known != address) {
            self.start_over();
        }
        let devices = self.devices_hash();
        let (Some(run), Some(slice)) = (&self.run, &mut self.slice) else {
            return Ok(false);
        };
        let subject = Subject {
            record: &slice.record,
            pod_uid: &run.pod_uid,
            devices,
        };
        for statement in &slice.due {
            chain::append(&mut slice.checkpoints, subject, key, statement)?;
        }
        slice.due.clear();
        slice.key = Some(address);
        Ok(true)
    }

    fn devices_hash(&self) -> alloy_primitives::B256 {
        let devices: Vec<_> = self
            .devices
            .iter()
            .flatten()
            .map(|device| device.part.stated())
            .collect();
        devices_hash(&devices)
    }

    /// Whether `before` is this agent's whole chain of the open slice.
    fn is_ours(&self, before: &Evidence, key: &SigningKey) -> bool {
        let (Some(run), Some(slice)) = (&self.run, &self.slice) else {
            return false;
        };
        let subject = Subject {
            record: &slice.record,
            pod_uid: &run.pod_uid,
            devices: self.devices_hash(),
        };
        before.key.parse() == Ok(key.address())
            && chain::is_whole(&before.checkpoints, subject, key.address())
    }

    /// The API server has statements that this agent does not remember: it goes on from there. If it cannot, since
    /// another key made them or they are not whole, they are a gap.
    fn resume(&mut self, before: &Evidence, is_ours: bool) {
        let (Some(run), Some(slice)) = (&mut self.run, &mut self.slice) else {
            return;
        };
        let is_same_run = before
            .started_ms
            .is_some_and(|started| started.abs_diff(run.started_ms) <= SAME_START_MS);
        let begin = slice.from_ms.unwrap_or(run.started_ms);
        let to = slice.cut_ms.unwrap_or(begin);
        let measured = slice
            .due
            .drain(..)
            .map(|due| due.counters)
            .reduce(chain::both);
        let (from, reason) = match before.checkpoints.last() {
            Some(last) if is_ours => {
                slice.checkpoints.clone_from(&before.checkpoints);
                self.epoch = last.epoch;
                self.gaps.clone_from(&before.gaps);
                if is_same_run {
                    run.started_ms = before.started_ms.unwrap_or(run.started_ms);
                }
                for device in self.devices.iter_mut().flatten() {
                    device.take_over(before);
                }
                (last.to_ms, GapReason::SpoolLost)
            }
            _ if is_ours => (begin, GapReason::SpoolLost),
            _ => (begin, GapReason::KeyChanged),
        };
        slice.cut_ms = Some(to.max(from));
        self.begin_again(from, to, reason, is_same_run, measured);
    }

    /// Another key cannot go on with the chain: it is begun anew, and what the old one signed is a gap.
    fn start_over(&mut self) {
        let (Some(run), Some(slice)) = (&self.run, &mut self.slice) else {
            return;
        };
        let begin = slice.from_ms.unwrap_or(run.started_ms);
        let to = slice.cut_ms.unwrap_or(begin);
        let measured = slice
            .due
            .drain(..)
            .map(|due| due.counters)
            .reduce(chain::both);
        slice.checkpoints.clear();
        self.begin_again(begin, to, GapReason::KeyChanged, true, measured);
    }

    /// A gap, and one statement at its end about what was measured in it.
    fn begin_again(
        &mut self,
        from: u64,
        to: u64,
        reason: GapReason,
        bridged: bool,
        measured: Option<Counters>,
    ) {
        self.lose(from, to, reason, bridged);
        self.cut(to);
        let due = self.slice.as_mut().and_then(|slice| slice.due.last_mut());
        if let (Some(due), Some(measured)) = (due, measured) {
            due.counters = chain::both(due.counters, measured);
        }
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
            devices: self.devices.iter().flatten().map(Metered::stated).collect(),
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

impl Metered {
    /// Adds a reading; how many foreign processes it shows.
    fn measure(&mut self, reading: &Reading<'_>, uid: &str, longest: u64) -> Option<u32> {
        let before = self.last.replace(LastReading {
            at: reading.at,
            energy_millijoules: reading.energy_millijoules,
        });
        let millis = before.map_or(0, |before| reading.at.since(before.at));
        if millis > longest {
            self.last = None;
        }
        let own = reading.users.as_ref().map(|users| {
            let own = users.iter().filter(|user| user.pod_uid == Some(uid));
            let memory = own
                .clone()
                .map(|user| user.memory_bytes)
                .sum::<Option<u64>>();
            (u32::try_from(own.count()).unwrap_or(u32::MAX), memory)
        });
        let energy = before
            .and_then(|before| before.energy_millijoules)
            .zip(reading.energy_millijoules)
            // A driver that was loaded anew counts from 0.
            .and_then(|(before, now)| now.checked_sub(before))
            .map(|used| self.part_of(used, reading.held));
        // What others do with the rest of the GPU cannot be told apart from what this pod does.
        let whole = self.part.is_whole() && self.part.parent.is_none();
        let own_memory = own.and_then(|(_, memory)| memory);
        self.span.add(Increment {
            millis: if millis > longest { 0 } else { millis },
            percent: reading.percent.filter(|_| whole),
            memory_bytes: own_memory.or(reading.memory_bytes.filter(|_| whole)),
            energy_millijoules: energy,
            processes: own.map(|(processes, _)| processes),
        });
        let (users, holders) = (reading.users.as_ref()?, reading.holders.as_ref()?);
        let is_foreign = |user: &&User<'_>| user.pod_uid.is_none_or(|uid| !holders.contains(&uid));
        u32::try_from(users.iter().filter(is_foreign).count()).ok()
    }

    /// Goes on with what was stated before.
    fn take_over(&mut self, before: &Evidence) {
        let counters = before
            .devices
            .iter()
            .find(|device| device.uuid == self.part.uuid)
            .and_then(|device| device.counters);
        if let Some(counters) = counters {
            self.stated = self.stated.and(Integrals::of(chain::measured(counters)));
        }
    }

    /// Its part of what all who hold the GPU used together.
    fn part_of(&self, used: u64, held: u64) -> u64 {
        let weight = self.part.weight();
        let part = u128::from(used) * u128::from(weight) / u128::from(held.max(weight).max(1));
        u64::try_from(part).unwrap_or(used)
    }

    fn stated(&self) -> DeviceUse {
        let counters = chain::stated(self.stated.counters());
        let share = Some(self.part.share).filter(|_| !self.part.is_whole());
        DeviceUse {
            uuid: self.part.uuid.clone(),
            parent_uuid: self.part.parent.clone(),
            share_numerator: share.map(|share| share.0),
            share_denominator: share.map(|share| share.1),
            counters: Some(counters).filter(|counters| *counters != Default::default()),
        }
    }
}
