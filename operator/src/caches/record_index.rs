//! Which UsageRecords belong to which job: a job's passes must not search through the records of all others.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use gridstake_crds::UsageRecord;
use kube::ResourceExt as _;

/// Names of records, by the job's uid.
#[derive(Clone, Debug, Default)]
pub struct RecordIndex(Arc<Mutex<HashMap<String, BTreeSet<String>>>>);

impl RecordIndex {
    fn names(&self) -> MutexGuard<'_, HashMap<String, BTreeSet<String>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes note of a record that exists.
    pub fn insert(&self, record: &UsageRecord) {
        self.names()
            .entry(record.spec.job.uid.clone())
            .or_default()
            .insert(record.name_any());
    }

    /// Forgets a record that is gone.
    pub fn remove(&self, record: &UsageRecord) {
        let mut names = self.names();
        if let Some(of_job) = names.get_mut(&record.spec.job.uid) {
            of_job.remove(&record.name_any());
            if of_job.is_empty() {
                names.remove(&record.spec.job.uid);
            }
        }
    }

    /// Takes note of all records that exist, and forgets the others.
    pub fn replace<'a>(&self, records: impl IntoIterator<Item = &'a UsageRecord>) {
        let mut fresh: HashMap<String, BTreeSet<String>> = HashMap::new();
        for record in records {
            fresh
                .entry(record.spec.job.uid.clone())
                .or_default()
                .insert(record.name_any());
        }
        *self.names() = fresh;
    }

    /// The names of the job's records, in alphabetical order.
    #[must_use]
    pub fn of_job(&self, uid: &str) -> Vec<String> {
        self.names()
            .get(uid)
            .map(|names| names.iter().cloned().collect())
            .unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(uid: &str, slice: u32) -> UsageRecord {
        let name = gridstake_crds::names::usage_record(uid, 1, 0, slice);
        serde_saphyr::from_str(&format!(
            "{{apiVersion: gridstake.dev/v1alpha1, kind: UsageRecord, metadata: {{name: {name}}}, \
             spec: {{job: {{namespace: n, name: j, uid: {uid}}}, attempt: 1, member: 0, slice: {slice}, podName: j-1-0, nodeName: a, gpuCount: 1}}}}"
        ))
        .unwrap()
    }

    #[test]
    fn a_job_finds_its_records_and_no_others() {
        let index = RecordIndex::default();
        index.insert(&record("u", 1));
        index.insert(&record("u", 0));
        index.insert(&record("u", 0));
        index.insert(&record("v", 0));
        assert_eq!(index.of_job("u"), ["u-1-0-0", "u-1-0-1"]);
        index.remove(&record("u", 0));
        assert_eq!(index.of_job("u"), ["u-1-0-1"]);
        index.remove(&record("u", 1));
        assert!(index.of_job("u").is_empty());
        assert!(!index.names().contains_key("u"), "nothing is kept of it");
    }

    #[test]
    fn a_new_list_replaces_what_was_known() {
        let index = RecordIndex::default();
        index.insert(&record("u", 0));
        index.replace([&record("v", 0)]);
        assert!(index.of_job("u").is_empty());
        assert_eq!(index.of_job("v"), ["v-1-0-0"]);
    }
}
