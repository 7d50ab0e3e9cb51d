//! The signing of what a lease has to state, and how its chain goes on after memory or key were lost. Pure.

use gridstake_crds::usage_record::{Checkpoint, Counters, Evidence, GapReason};
use gridstake_ledger::checkpoint::{Subject, devices_hash};

use super::{Lease, SAME_START_MS};
use crate::{
    metering::chain::{self, SignError},
    signing_key::SigningKey,
};

impl Lease {
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
        let last = |chain: &[Checkpoint]| chain.last().map(|last| (last.epoch, last.seq));
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
        // A number that was used once is not used again, whoever signed it.
        let last_epoch = before.checkpoints.last().map(|last| last.epoch);
        self.epoch = self.epoch.max(last_epoch.unwrap_or(0));
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
}
