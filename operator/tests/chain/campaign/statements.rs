//! What a chain says about a lane's statements, and what it should say: recomputed from its batches alone.

use std::collections::{BTreeMap, BTreeSet};

use alloy::{
    hex,
    primitives::{B256, LogData, U256},
    sol_types::{SolCall as _, SolEvent as _},
};
use gridstake_contracts::Settlement;
use gridstake_ledger::{
    batch,
    earnings::{LaneId, SettledBatch, WeekOfEarnings},
    statement::{self, EARNINGS, INVENTORY, Statement},
    week::Week,
};
use serde_json::{Value, json};

use super::nature::Nature;

pub struct Statements {
    /// In the order of the chain.
    said: Vec<Statement>,
    /// The reports of every week that is over.
    due: BTreeSet<Statement>,
    /// What the nodes show.
    shown: BTreeMap<String, Statement>,
}

fn data_of(log: &Value) -> LogData {
    let topics: Vec<B256> = serde_json::from_value(log["topics"].clone()).unwrap();
    let data = hex::decode(log["data"].as_str().unwrap()).unwrap();
    LogData::new(topics, data.into()).unwrap()
}

fn number(value: &Value) -> u64 {
    u64::from_str_radix(value.as_str().unwrap().trim_start_matches("0x"), 16).unwrap()
}

async fn logs(nature: &Nature, lane: LaneId, event: B256) -> Vec<Value> {
    let filter = json!([{
        "address": lane.settlement.to_string(), "fromBlock": "0x0", "toBlock": "latest",
        "topics": [event.to_string(), format!("{:#066x}", lane.lane)],
    }]);
    let found = nature.rpc("eth_getLogs", &filter, 0).await.unwrap();
    found.as_array().unwrap().clone()
}

impl Statements {
    pub async fn read(nature: &Nature, lane: LaneId, shown: &BTreeMap<String, Statement>) -> Self {
        let said = logs(nature, lane, Settlement::Stated::SIGNATURE_HASH).await;
        let said = said.iter().map(|log| {
            let event = Settlement::Stated::decode_log_data(&data_of(log)).unwrap();
            Statement {
                kind: event.kind,
                number: event.number,
                subject: event.subject,
                content: event.content,
            }
        });
        Self {
            said: said.collect(),
            due: due(nature, lane).await,
            shown: shown.clone(),
        }
    }

    /// What is not stated, or stated and not so.
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        for (node, shown) in &self.shown {
            let last = self.said.iter().rfind(|said| said.subject == shown.subject);
            if last != Some(shown) {
                faults.push(format!(
                    "node {node} shows {shown:?}, and {last:?} is stated"
                ));
            }
        }
        let said: BTreeSet<Statement> = self.earnings().copied().collect();
        for report in self.due.difference(&said) {
            faults.push(format!("not reported: {report:?}"));
        }
        for report in said.difference(&self.due) {
            faults.push(format!("reported and not so: {report:?}"));
        }
        faults
    }

    /// Reports that were made more than once.
    pub fn repeated(&self) -> Vec<String> {
        let mut seen = BTreeSet::new();
        self.earnings()
            .filter(|said| !seen.insert((said.subject, said.number)))
            .map(|said| format!("reported again: {said:?}"))
            .collect()
    }

    pub fn reports(&self) -> usize {
        self.due.len()
    }

    pub fn inventories(&self) -> usize {
        self.said
            .iter()
            .filter(|said| said.kind == INVENTORY)
            .count()
    }

    fn earnings(&self) -> impl Iterator<Item = &Statement> {
        self.said.iter().filter(|said| said.kind == EARNINGS)
    }
}

/// The reports of the weeks that are over by the chain's newest block.
async fn due(nature: &Nature, lane: LaneId) -> BTreeSet<Statement> {
    let newest = json!(["latest", false]);
    let newest = nature
        .rpc("eth_getBlockByNumber", &newest, 0)
        .await
        .unwrap();
    let now = number(&newest["timestamp"]);
    let mut weeks: BTreeMap<Week, WeekOfEarnings> = BTreeMap::new();
    let mut before: BTreeMap<u64, BTreeSet<u64>> = BTreeMap::new();
    for log in logs(nature, lane, Settlement::JobsSkipped::SIGNATURE_HASH).await {
        let event = Settlement::JobsSkipped::decode_log_data(&data_of(&log)).unwrap();
        let numbers = batch::numbers_of_word(event.wordNo, U256::from(event.bits));
        before.entry(event.seq).or_default().extend(numbers);
    }
    for log in logs(nature, lane, Settlement::BatchSettled::SIGNATURE_HASH).await {
        let event = Settlement::BatchSettled::decode_log_data(&data_of(&log)).unwrap();
        let block = json!([log["blockNumber"], false]);
        let block = nature.rpc("eth_getBlockByNumber", &block, 0).await.unwrap();
        let week = Week::of(number(&block["timestamp"]));
        if week.until() > now {
            continue;
        }
        let hash = json!([log["transactionHash"]]);
        let sent = nature
            .rpc("eth_getTransactionByHash", &hash, 0)
            .await
            .unwrap();
        let input = hex::decode(sent["input"].as_str().unwrap()).unwrap();
        let call = Settlement::settleCall::abi_decode(&input).unwrap();
        let content = batch::decode(&call.data).unwrap();
        let outcome = batch::outcome(event.summary, &event.amounts).unwrap();
        let nothing = BTreeSet::new();
        weeks
            .entry(week)
            .or_insert_with(|| WeekOfEarnings::new(lane, week))
            .add(SettledBatch {
                sequence: event.seq,
                content: &content,
                amounts: &outcome.groups,
                paid_before: before.get(&event.seq).unwrap_or(&nothing),
            });
    }
    let reports = weeks
        .into_values()
        .flat_map(|week| week.finish(&BTreeMap::new()).into_values());
    reports.map(|report| statement::earnings(&report)).collect()
}
