//! What the archive tells of payments that no record has: for which jobs they were.
//!
//! After the API server was restored from a backup, jobs are gone that were submitted after it was taken. Their records never come
//! back, so nobody could ever say whose the payments are that the chain shows of them; and what began before on the same terms would
//! wait for that. The file of a batch that was archived in time names the record of each payment, under the hash that the chain
//! holds. What was paid for a job of which the cluster has nothing left puts no slice in doubt.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use gridstake_crds::{ComputeJob, SettlementBatch, UsageRecord};
use gridstake_ledger::archive::{ArchivedBatch, Content};
use kube::{Api, ResourceExt as _, api::ListParams};

use super::{observe, observe::ObserveError, run::Settler};
use crate::archive::observe::written_before;

/// How long settling waits for the archive.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often it is asked again about a batch of which something is in doubt.
const AGAIN: Duration = Duration::from_mins(1);

/// What the archive has told of batches, by name: when it was asked last, and the numbers that were paid for jobs that are gone.
pub(super) type Memory = BTreeMap<String, (Instant, BTreeSet<u64>)>;

/// The uid of the job whose record has this name, `<job uid>-<attempt>-<member>-<slice>`.
fn job_of(record: &str) -> Option<&str> {
    record.rsplitn(4, '-').nth(3)
}

/// The numbers that `file` pays for jobs that are not among those which are `there`, by uid. Pure.
fn for_jobs_that_are_gone(file: &ArchivedBatch, there: &BTreeSet<String>) -> BTreeSet<u64> {
    let is_gone = |record: &str| job_of(record).is_some_and(|job| !there.contains(job));
    let uses = file
        .entries
        .iter()
        .filter_map(|entry| match &entry.content {
            Content::Use(used) if is_gone(&used.record) => Some(entry.entry.job_no),
            Content::Use(_) | Content::Emission { .. } => None,
        });
    uses.collect()
}

impl Settler {
    /// The numbers of `batch` that were paid for jobs of which the cluster has nothing left, as far as the archive proves it.
    /// `sealed` are the lane's sealed records.
    pub(super) async fn paid_for_jobs_that_are_gone(
        &mut self,
        batch: &SettlementBatch,
        sealed: &[UsageRecord],
    ) -> Result<BTreeSet<u64>, ObserveError> {
        let Some(archive) = &self.context.archive else {
            return Ok(BTreeSet::new());
        };
        let name = batch.name_any();
        if let Some((asked, known)) = self.explained.get(&name)
            && asked.elapsed() < AGAIN
        {
            return Ok(known.clone());
        }
        let asked = tokio::time::timeout(PATIENCE, written_before(archive.store(), batch)).await;
        let numbers = match asked {
            Ok(Ok(Some((_, file)))) => {
                let there = self.jobs_that_are_there(sealed).await?;
                for_jobs_that_are_gone(&file, &there)
            }
            Ok(Ok(None)) => BTreeSet::new(),
            Ok(Err(error)) => {
                tracing::warn!(
                    batch = name,
                    error = crate::error::chain(&error),
                    "the archive does not tell what a batch has paid"
                );
                BTreeSet::new()
            }
            Err(_) => {
                tracing::warn!(batch = name, "the archive does not answer");
                BTreeSet::new()
            }
        };
        let told = (Instant::now(), numbers.clone());
        self.explained.insert(name, told);
        Ok(numbers)
    }

    /// The uids of the jobs of which anything is in the cluster, by quorum reads: caches may be of before the restore.
    async fn jobs_that_are_there(
        &self,
        sealed: &[UsageRecord],
    ) -> Result<BTreeSet<String>, ObserveError> {
        let jobs = Api::<ComputeJob>::all(self.context.client.clone());
        let mut there: BTreeSet<String> = sealed.iter().map(|r| r.spec.job.uid.clone()).collect();
        // Jobs first: a record is there before its job is let go of.
        let mut params = ListParams::default().limit(observe::PAGE);
        loop {
            let page = jobs
                .list_metadata(&params)
                .await
                .map_err(|source| ObserveError::List {
                    kind: "ComputeJobs",
                    source: Box::new(source),
                })?;
            there.extend(page.items.iter().filter_map(kube::ResourceExt::uid));
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => params = params.continue_token(&token),
                None => break,
            }
        }
        let open = observe::open_records(&self.context.client, &self.context.namespace).await?;
        there.extend(open.into_iter().map(|record| record.spec.job.uid));
        Ok(there)
    }
}

#[cfg(test)]
mod tests {
    use alloy::primitives::{Address, B256};
    use gridstake_ledger::{
        archive::{ArchivedEntry, Background, BatchHead, Use},
        batch::Entry,
    };

    use super::*;

    fn used(job_no: u64, record: &str) -> ArchivedEntry {
        ArchivedEntry {
            entry: Entry {
                job_no,
                payer: 3,
                provider: 9,
                price: 720_000_000_000,
                units: 1500,
            },
            leaf: B256::ZERO,
            content: Content::Use(Box::new(Use {
                record: record.to_owned(),
                pod_uid: String::new(),
                node: "n1".to_owned(),
                start_ms: 0,
                end_ms: 1500,
                gpu_millis: 1500,
                cause: "MemberEnded".to_owned(),
                verdict: String::new(),
                evidence_head: B256::ZERO,
                evidence: None,
                background: Background {
                    namespace: "a".to_owned(),
                    job: "j".to_owned(),
                    pod: "j-1-0".to_owned(),
                    gpus: 1,
                    energy_millijoules: None,
                    factors: None,
                },
            })),
        }
    }

    #[test]
    fn what_was_paid_for_a_job_of_which_nothing_is_left_is_explained_and_nothing_else() {
        let mut emission = used(259, "");
        emission.content = Content::Emission {
            usage_leaf: B256::ZERO,
        };
        let file = ArchivedBatch {
            head: BatchHead {
                chain_id: 1,
                contract: Address::ZERO,
                lane: 7,
                sequence: 1,
                previous: B256::ZERO,
                usage_root: B256::ZERO,
                data: vec![],
                decision_head: B256::ZERO,
            },
            certificates: vec![],
            entries: vec![
                used(256, "5b1e-11-gone-1-0-0"),
                used(257, "5b1e-12-there-1-0-7"),
                used(258, "nonsense"),
                emission,
            ],
        };
        let there = BTreeSet::from(["5b1e-12-there".to_owned()]);
        assert_eq!(for_jobs_that_are_gone(&file, &there), BTreeSet::from([256]));
    }
}
