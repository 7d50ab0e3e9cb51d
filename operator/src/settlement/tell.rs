//! Tells the records of batches how far their payment is, beside the lane's passes.
//!
//! A pass asks for it and goes on: no payment waits for the thousand writes of a batch, which come three times over its life. Where the
//! API server is slow, records are told the newest alone. Two things do wait until all records have been told: that the log calls a
//! batch final, and that it calls it superseded. So of a batch that is over nothing is left to be told, whoever dies when; and of
//! those that are under way a new leader tells all.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use alloy::primitives::B256;
use futures::{FutureExt as _, StreamExt as _, TryStreamExt as _, stream};
use gridstake_crds::{
    SettlementBatch, UsageRecord,
    settlement_batch::{BatchState, BlockedReason},
    usage_record::{RecordSettlement, RecordState},
};
use kube::{Client, ResourceExt as _};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use super::{
    Lane, act,
    observe::{self, Found, ObserveError},
    records::{self, BatchStanding, Rest},
    run::{PassError, WRITES, held_by, numbers_of},
    status,
};
use crate::{
    Context,
    caches::triggers::Pulse,
    status::{Guard, StatusError},
};

/// What the records of a batch are to be told.
#[derive(Clone, Debug)]
pub(super) struct Telling {
    /// The batch.
    pub batch: SettlementBatch,
    /// Its state, which the log may not tell yet.
    pub state: BatchState,
    /// Where it is on the chain.
    pub found: Option<Found>,
    /// All batches that were under way: another one may hold the rest of a record.
    pub open: Arc<Vec<SettlementBatch>>,
    /// The newest block then.
    pub head: B256,
}

/// Whether a batch in this state is in the log for good.
pub(super) const fn is_over(state: BatchState) -> bool {
    matches!(state, BatchState::Final | BatchState::Superseded)
}

#[derive(Debug, Default)]
struct Board {
    /// What is to be told, by the batches' numbers and names: of each batch the newest.
    asked: BTreeMap<(u64, String), Telling>,
    /// What all records of a batch under way have been told, by its name.
    told: BTreeMap<String, RecordState>,
}

/// What is to be told and what has been told. Cloning shares it.
#[derive(Clone, Debug, Default)]
pub(super) struct Desk(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    board: Mutex<Board>,
    /// That something was asked for.
    news: Notify,
    /// Beats when all records of a batch have been told the last that there is to tell.
    last: Pulse,
    /// Held by whoever writes: what is told of a batch later is written later.
    turn: tokio::sync::Mutex<()>,
}

impl Desk {
    fn board(&self) -> MutexGuard<'_, Board> {
        self.0.board.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether all records of the batch have been told what this state means for them.
    pub(super) fn is_told(&self, batch: &SettlementBatch, state: BatchState) -> bool {
        let board = self.board();
        board.told.get(&batch.name_any()) == Some(&records::record_state(state))
    }

    /// Asks for it.
    pub(super) fn ask(&self, telling: Telling) {
        let key = (telling.batch.spec.sequence, telling.batch.name_any());
        self.board().asked.insert(key, telling);
        self.0.news.notify_one();
    }

    /// Forgets all batches but those which are `open`.
    pub(super) fn keep(&self, open: &[SettlementBatch]) {
        let open: BTreeSet<String> = open.iter().map(SettlementBatch::name_any).collect();
        let mut board = self.board();
        board.told.retain(|name, _| open.contains(name));
        board.asked.retain(|(_, name), _| open.contains(name));
    }

    /// Nothing is to be told of this batch any more but what whoever says so tells.
    fn withdraw(&self, batch: &SettlementBatch) {
        let key = (batch.spec.sequence, batch.name_any());
        self.board().asked.remove(&key);
    }

    /// What is to be told, in the order of the batches.
    fn take(&self) -> Vec<Telling> {
        let mut asked = std::mem::take(&mut self.board().asked);
        // Some may have been told since they were asked for.
        asked.retain(|_, telling| !self.is_told(&telling.batch, telling.state));
        asked.into_values().collect()
    }

    fn is_empty(&self) -> bool {
        self.board().asked.is_empty()
    }

    fn has_told(&self, telling: &Telling) {
        let state = records::record_state(telling.state);
        self.board().told.insert(telling.batch.name_any(), state);
        if is_over(telling.state) {
            self.0.last.beat();
        }
    }

    /// How often all records of a batch have been told the last that there is to tell.
    pub(super) fn last_told(&self) -> u64 {
        self.0.last.count()
    }

    /// Beats each time.
    pub(super) fn last_tellings(&self) -> watch::Receiver<u64> {
        self.0.last.changes()
    }
}

/// Where numbers are that a batch does not hold.
#[derive(Clone, Debug, Default)]
struct Elsewhere {
    /// Those that other batches hold.
    held: BTreeSet<u64>,
    /// Those that were paid before.
    paid: BTreeSet<u64>,
}

impl Elsewhere {
    fn of(&self, numbers: &[u64]) -> Rest {
        if numbers.iter().all(|number| self.paid.contains(number)) {
            Rest::Paid
        } else if numbers.iter().any(|number| self.held.contains(number)) {
            Rest::Batched
        } else {
            Rest::Waiting
        }
    }
}

/// Writes into a lane's records what passes have asked for.
#[derive(Clone)]
pub struct Teller {
    context: Context,
    lane: Lane,
    desk: Desk,
}

impl Teller {
    pub(super) fn new(context: Context, lane: Lane, desk: Desk) -> Self {
        Self {
            context,
            lane,
            desk,
        }
    }

    /// The same, which writes by `client`.
    #[must_use]
    pub fn by(mut self, client: Client) -> Self {
        self.context.client = client;
        self
    }

    /// Tells what is asked for, until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let telling = async {
            loop {
                self.desk.0.news.notified().await;
                self.tell_all().await;
            }
        };
        // What has not been told by then is asked for again.
        let _: Option<()> = stop.run_until_cancelled(telling).await;
    }

    /// Tells all that has been asked for. What fails is logged and counted, and the next pass asks for it again.
    pub(super) async fn tell_all(&self) {
        while !self.desk.is_empty() && self.context.leadership.holds() {
            let _turn = self.desk.0.turn.lock().await;
            let asked = self.desk.take();
            if asked.is_empty() {
                return;
            }
            let (client, namespace) = (&self.context.client, &self.context.namespace);
            let records = match observe::unsettled(client, namespace, &self.lane).await {
                Ok(records) => records,
                Err(error) => {
                    PassError::from(error).report(&self.lane, "records cannot be told");
                    return;
                }
            };
            for telling in asked {
                match self.tell(&telling, &records).await {
                    Ok(()) => self.desk.has_told(&telling),
                    Err(error) => error.report(&self.lane, "the records of a batch are not told"),
                }
            }
        }
    }

    /// Tells those of `records` that belong to a batch, at once and instead of what was asked for.
    pub(super) async fn tell_now(
        &self,
        telling: &Telling,
        records: &[UsageRecord],
    ) -> Result<(), PassError> {
        self.desk.withdraw(&telling.batch);
        let _turn = self.desk.0.turn.lock().await;
        self.tell(telling, records).await
    }

    async fn tell(&self, telling: &Telling, records: &[UsageRecord]) -> Result<(), PassError> {
        let Telling {
            batch,
            state,
            found,
            ..
        } = telling;
        let numbers = held_by([batch])?;
        let name = batch.name_any();
        let nothing = BTreeMap::new();
        let standing = BatchStanding {
            batch: &name,
            state: *state,
            inclusion: found.as_ref().map(|found| &found.inclusion),
            skipped: found
                .as_ref()
                .map_or(&nothing, |found| &found.settled.skipped),
        };
        let refused = batch.status.as_ref().and_then(|status| status.blocked)
            == Some(BlockedReason::EncodingRefused);
        if *state == BatchState::Superseded
            && refused
            && numbers.len() == 1
            && let Some(one) = numbers.first()
        {
            let at_fault = records
                .iter()
                .find(|record| numbers_of(record).contains(one));
            if let Some(record) = at_fault {
                let why = format!("the contract cannot read a batch of number {one} alone");
                act::needs_decision(&self.context, record, &why).await?;
            }
            return Ok(());
        }
        let of_the_batch = records.iter().filter_map(|record| {
            let (own, others): (Vec<u64>, Vec<u64>) = numbers_of(record)
                .into_iter()
                .partition(|number| numbers.contains(number));
            (!own.is_empty()).then_some((record, own, others))
        });
        let of_the_batch: Vec<_> = of_the_batch.collect();
        let others = of_the_batch.iter().flat_map(|(_, _, others)| others);
        let elsewhere = if *state == BatchState::Final {
            self.elsewhere(telling, others.copied().collect()).await?
        } else {
            Elsewhere::default()
        };
        let writes = of_the_batch.iter().map(|(record, own, others)| {
            let settlement = records::settlement(record, own, &standing, elsewhere.of(others));
            self.write(record, settlement).boxed()
        });
        let writes: Vec<_> = writes.collect();
        stream::iter(writes)
            .buffer_unordered(WRITES)
            .try_collect::<()>()
            .await?;
        Ok(())
    }

    /// Where these numbers are that the batch does not hold, such as that of an emission that the reward account did not cover.
    async fn elsewhere(
        &self,
        telling: &Telling,
        numbers: BTreeSet<u64>,
    ) -> Result<Elsewhere, ObserveError> {
        if numbers.is_empty() {
            return Ok(Elsewhere::default());
        }
        let sequence = telling.batch.spec.sequence;
        let open = telling.open.iter();
        let held = held_by(open.filter(|other| other.spec.sequence != sequence))?;
        let ask: Vec<u64> = numbers.difference(&held).copied().collect();
        let paid = self.lane.reader().paid(ask, telling.head).await?;
        Ok(Elsewhere { held, paid })
    }

    async fn write(
        &self,
        record: &UsageRecord,
        settlement: RecordSettlement,
    ) -> Result<(), StatusError> {
        let (client, metrics) = (&self.context.client, &self.context.metrics);
        match status::write_record(client, metrics, record, settlement, Guard::None).await {
            // A record that somebody deleted needs to be told nothing.
            Err(error) if error.is_not_found() || error.is_conflict() => Ok(()),
            Err(error) => Err(error),
            Ok(_) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn batch(sequence: u64) -> SettlementBatch {
        let hash = B256::ZERO.to_string();
        serde_json::from_value(json!({
            "apiVersion": "gridstake.dev/v1alpha1", "kind": "SettlementBatch",
            "metadata": {"name": format!("lane-7-{sequence}")},
            "spec": {
                "chain": "base", "chainId": 1, "contract": format!("0x{}", "00".repeat(20)), "lane": 7, "sequence": sequence,
                "previous": hash, "chainHash": hash, "usageRoot": hash, "decisionHead": hash, "data": "", "dataHash": hash,
                "recordCount": 0, "groupCount": 0, "total": "0", "firstJobNo": 0, "lastJobNo": 0,
            },
        }))
        .unwrap()
    }

    fn telling(sequence: u64, state: BatchState) -> Telling {
        Telling {
            batch: batch(sequence),
            state,
            found: None,
            open: Arc::default(),
            head: B256::ZERO,
        }
    }

    fn taken(desk: &Desk) -> Vec<(u64, BatchState)> {
        let taken = desk.take().into_iter();
        taken
            .map(|telling| (telling.batch.spec.sequence, telling.state))
            .collect()
    }

    #[test]
    fn of_each_batch_the_newest_alone_is_told_and_the_batches_in_their_order() {
        let desk = Desk::default();
        for (sequence, state) in [
            (2, BatchState::Prepared),
            (10, BatchState::InFlight),
            (2, BatchState::Included),
            (1, BatchState::Safe),
        ] {
            desk.ask(telling(sequence, state));
        }
        assert_eq!(
            taken(&desk),
            [
                (1, BatchState::Safe),
                (2, BatchState::Included),
                (10, BatchState::InFlight)
            ]
        );
        assert!(desk.is_empty());
    }

    #[test]
    fn what_all_records_were_told_is_not_told_again_and_something_else_is() {
        let desk = Desk::default();
        // It is asked for twice before it is told: by two passes.
        desk.ask(telling(1, BatchState::Included));
        desk.has_told(&telling(1, BatchState::Included));
        assert_eq!(taken(&desk), []);
        // Safe says the same to records as Included.
        assert!(desk.is_told(&batch(1), BatchState::Safe));
        // Its block was reorganised away.
        assert!(!desk.is_told(&batch(1), BatchState::InFlight));
        desk.ask(telling(1, BatchState::InFlight));
        assert_eq!(taken(&desk), [(1, BatchState::InFlight)]);
    }

    #[test]
    fn the_last_that_there_is_to_tell_of_a_batch_is_announced_and_nothing_else_is() {
        let desk = Desk::default();
        for state in [BatchState::Prepared, BatchState::Included, BatchState::Safe] {
            desk.has_told(&telling(1, state));
        }
        assert_eq!(desk.last_told(), 0);
        desk.has_told(&telling(1, BatchState::Final));
        desk.has_told(&telling(2, BatchState::Superseded));
        assert_eq!(desk.last_told(), 2);
    }

    #[test]
    fn of_a_batch_that_is_not_under_way_any_more_nothing_is_kept() {
        let desk = Desk::default();
        desk.has_told(&telling(1, BatchState::Final));
        desk.ask(telling(2, BatchState::Prepared));
        desk.ask(telling(3, BatchState::Prepared));
        desk.keep(&[batch(3)]);
        assert_eq!(desk.board().told, BTreeMap::new());
        assert_eq!(taken(&desk), [(3, BatchState::Prepared)]);
    }
}
