//! One step of metering: what was seen at a moment changes what is known and what is stated. Pure: neither clock nor file
//! nor network; a key signs the same digest always alike.

use std::collections::{BTreeMap, HashMap};

use gridstake_crds::usage_record::Evidence;
use serde::{Deserialize, Serialize};

use super::{
    chain::SignError,
    device::Reading,
    lease::{Lease, PodSeen},
    records::{Record, Records},
    share::Part,
};
use crate::{
    clock::{Anchor, BootMillis},
    process::pod_names::PodName,
    signing_key::SigningKey,
};

/// How long a lease that has ended waits for the record of a last slice, in milliseconds: the operator opens it after
/// the one before is sealed.
const WAIT_FOR_RECORD_MS: u64 = 600_000;

/// All that is known, and kept over restarts of the agent.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct State {
    /// The leases, by their records' names without the slice.
    pub leases: BTreeMap<String, Lease>,
}

/// What was seen at a moment.
#[derive(Debug)]
pub struct Seen<'a> {
    /// When.
    pub at: BootMillis,
    /// How the wall clock stands, for leases that begin now.
    pub anchor: Anchor,
    /// The node's records that are not sealed; `None` while the API server has not told them.
    pub records: Option<&'a Records>,
    /// The pods of leases.
    pub pods: &'a HashMap<PodName, PodSeen>,
    /// The devices of pods, where the kubelet has named them.
    pub given: &'a HashMap<PodName, Vec<Part>>,
    /// What NVML has shown since the step before.
    pub readings: &'a [Reading<'a>],
    /// The key, if there is one.
    pub key: Option<&'a SigningKey>,
}

/// What does not change from step to step.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// Milliseconds between two statements about a slice.
    pub checkpoint_every: u64,
    /// A reading that follows the one before after more milliseconds tells nothing of the time between.
    pub longest_reading: u64,
}

/// Takes in what was seen. True if anything was stated.
///
/// # Errors
/// When the key does not sign; what is due stays due.
pub fn step(state: &mut State, seen: &Seen<'_>, rules: Rules) -> Result<bool, SignError> {
    if let Some(records) = seen.records {
        follow(state, records, seen.anchor);
    }
    let mut stated = false;
    for lease in state.leases.values_mut() {
        let pod = (lease.namespace.clone(), lease.pod.clone());
        lease.give(seen.given.get(&pod));
        lease.look(seen.pods.get(&pod), seen.at);
        for reading in seen.readings {
            lease.measure(reading, rules.longest_reading);
        }
        lease.cut_if_due(rules.checkpoint_every);
        // What the API server holds may be further than what was kept, after a disk that was full: another word for the same
        // number would be a lie. Until it has told, nothing could be delivered either.
        if let (Some(key), Some(records)) = (seen.key, seen.records) {
            stated |= lease.sign(key, published(lease, records).as_deref())?;
        }
    }
    let now = seen.anchor.unix_ms(seen.at);
    state.leases.retain(|_, lease| is_wanted(lease, now));
    Ok(stated)
}

fn published(lease: &Lease, records: &Records) -> Option<std::sync::Arc<Evidence>> {
    let record = &lease.slice.as_ref()?.record;
    records.get(record)?.published.clone()
}

/// Opens the slices of new records and closes those whose record is sealed or gone. What was billed once is over, also
/// where the API server does not know it any more.
fn follow(state: &mut State, records: &Records, anchor: Anchor) {
    for (name, record) in records.iter().filter(|(_, record)| record.is_metered()) {
        state
            .leases
            .entry(record.lease.clone())
            .or_insert_with(|| Lease::new(record, anchor))
            .open(name, record);
    }
    for lease in state.leases.values_mut() {
        let open = |slice: &super::lease::Slice| {
            records.get(&slice.record).is_some_and(Record::is_metered)
        };
        if !lease.slice.as_ref().is_some_and(open) {
            lease.slice = None;
        }
    }
}

fn is_wanted(lease: &Lease, now: u64) -> bool {
    let runs_or_has_just_ended = |run: &super::lease::Run| {
        run.ended_ms
            .is_none_or(|ended| now < ended.saturating_add(WAIT_FOR_RECORD_MS))
    };
    lease.slice.is_some() || lease.run.as_ref().is_some_and(runs_or_has_just_ended)
}

#[cfg(test)]
mod tests;
