//! The contract against the ledger crate: random batches of its encoder are settled by the real contract and compared
//! group by group with what it computes, and what one of them refuses to read the other one refuses, too.
//!
//! Each batch is settled in a simulation on top of the newest block: nothing is left behind.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Debug,
};

use alloy::{
    hex,
    primitives::{B256, Bytes},
    rpc::types::Log,
    sol_types::{SolCall, SolError as _, SolEvent as _},
};
use gridstake_contracts::{Settlement, StakeVault};
use gridstake_crds::usage_record::SkipReason;
use gridstake_ledger::{
    amount,
    batch::{self, Batch, DecodeError, Entry, Group, Outcome},
    signature,
    statement::Statement,
    typed,
};
use gridstake_operator::settlement::outcome;
use proptest::{
    prelude::*,
    sample::Index,
    test_runner::{Config, TestCaseError, TestRunner},
};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::{
    anvil::{ADMIN, PAYER, PROVIDER_OPERATOR, STAKER},
    world::{LANE, World},
};

/// What each payer of the lane has; the reward account is the first, and there is none after the last.
const BALANCES: [u64; 5] = [5_000_000, 400_000_000_000_000, 500_000, 0, 1_000_000_000];
/// Providers that can be paid: 1 to this one. The next one is cooling, and the one after it does not exist.
const ACTIVE: u32 = 4;
const COOLING: u32 = ACTIVE + 1;
/// The highest number of a lane.
const LAST_NUMBER: u64 = ((1 << 32) - 1) * batch::WORD_BITS + batch::WORD_BITS - 1;
const ROOT: B256 = B256::repeat_byte(0x11);

/// A lane with rich and poor payers, and providers of every kind.
async fn market() -> World {
    let world = World::new(BALANCES[1]).await;
    let anvil = &world.anvil;
    anvil.rpc("evm_setAutomine", json!([true])).await;
    for (payer, balance) in (0..).zip(BALANCES) {
        if payer > 1 {
            let register = Settlement::registerPayerCall { lane: LANE };
            anvil.transact(PAYER, world.settlement, &register).await;
        }
        if payer != 1 && balance > 0 {
            world.deposit(payer, balance).await;
        }
    }
    let register = StakeVault::registerCall {
        operator: PROVIDER_OPERATOR.parse().unwrap(),
        beneficiary: STAKER.parse().unwrap(),
    };
    for _ in 2..=ACTIVE {
        anvil.transact(STAKER, world.vault, &register).await;
    }
    anvil.pass_time(2 * 24 * 3600).await;
    for provider in 2..=ACTIVE {
        let activate = Settlement::activateProviderCall { provider };
        anvil.transact(ADMIN, world.settlement, &activate).await;
    }
    anvil.transact(STAKER, world.vault, &register).await;
    anvil.hold().await;
    world
}

/// What `settle` is expected to do, by the ledger's decoder and its amounts.
#[derive(Clone, Debug)]
struct Books {
    balances: BTreeMap<u32, u64>,
    credits: BTreeMap<u32, u64>,
    paid: BTreeSet<u64>,
}

impl Books {
    fn new() -> Self {
        Self {
            balances: (0..).zip(BALANCES).collect(),
            credits: (1..=ACTIVE).map(|provider| (provider, 0)).collect(),
            paid: BTreeSet::new(),
        }
    }

    /// The reason for which nothing is paid, if there is one.
    fn pay(&mut self, group: &Group, units: u64) -> Result<u64, SkipReason> {
        let credit = match self.credits.get_mut(&group.provider) {
            Some(credit) => credit,
            None if group.provider == COOLING => return Err(SkipReason::ProviderCooling),
            None => return Err(SkipReason::UnknownProvider),
        };
        let balance = self.balances.get_mut(&group.payer);
        let balance = balance.ok_or(SkipReason::UnknownPayer)?;
        let amount = amount::group_amount(units, group.price);
        let amount = amount.ok().filter(|amount| *amount <= *balance);
        let amount = amount.ok_or(SkipReason::InsufficientEscrow)?;
        *balance -= amount;
        *credit += amount;
        Ok(amount)
    }

    fn settle(&mut self, content: &Batch) -> (Outcome, BTreeMap<u64, SkipReason>) {
        let mut skipped = BTreeMap::new();
        let mut groups = Vec::new();
        for (group, all) in content.groups.iter().zip(&content.units) {
            let own = || {
                content
                    .entries
                    .iter()
                    .filter(|entry| Group::from(*entry) == *group)
            };
            let again: u64 = own()
                .filter(|entry| self.paid.contains(&entry.job_no))
                .map(|entry| entry.units)
                .sum();
            match self.pay(group, all - again) {
                Ok(amount) => groups.push(Some(amount)),
                Err(reason) => {
                    groups.push(None);
                    skipped.extend(own().map(|entry| (entry.job_no, reason)));
                }
            }
        }
        for entry in &content.entries {
            if self.paid.contains(&entry.job_no) {
                skipped.insert(entry.job_no, SkipReason::AlreadyPaid);
            }
        }
        let numbers = content.entries.iter().map(|entry| entry.job_no);
        self.paid
            .extend(numbers.filter(|number| !skipped.contains_key(number)));
        let left_out = u32::try_from(skipped.len()).unwrap();
        let outcome = Outcome {
            total: groups.iter().flatten().sum(),
            paid: u32::try_from(content.entries.len()).unwrap() - left_out,
            skipped: left_out,
            groups,
        };
        (outcome, skipped)
    }
}

/// `settle` of `data` as batch `seq`, signed by the lane, and the chain hash after it.
pub fn settle_call(world: &World, seq: u64, prev: B256, data: &[u8]) -> (Vec<u8>, B256) {
    let data_hash = batch::data_hash(data);
    let message = typed::Batch {
        lane: LANE,
        seq,
        prev,
        usageRoot: ROOT,
        dataHash: data_hash,
        validUntil: u64::MAX,
    };
    let domain = typed::settlement_domain(31337, world.settlement);
    let signed = world
        .keys
        .lane
        .sign(typed::digest(&message, &domain))
        .unwrap();
    let (r, vs) = signature::compact(&signed);
    let call = Settlement::settleCall {
        lane: LANE,
        seq,
        prev,
        usageRoot: ROOT,
        validUntil: u64::MAX,
        r,
        vs,
        data: Bytes::copy_from_slice(data),
    };
    let next = batch::chain_hash(prev, LANE, seq, ROOT, data_hash);
    (call.abi_encode(), next)
}

/// What these calls do one after the other, in a block that is thrown away.
async fn simulate(world: &World, calls: &[Vec<u8>]) -> Vec<Value> {
    let calls: Vec<Value> = calls
        .iter()
        .map(|input| {
            json!({"from": ADMIN, "to": world.settlement.to_string(), "gas": "0xb71b00", "input": hex::encode_prefixed(input)})
        })
        .collect();
    let request = json!([{"blockStateCalls": [{"calls": calls}]}, "latest"]);
    let mut blocks = world.anvil.rpc("eth_simulateV1", request).await;
    serde_json::from_value(blocks[0]["calls"].take()).unwrap()
}

fn returned<C: SolCall>(answer: &Value) -> C::Return {
    let data = hex::decode(answer["returnData"].as_str().unwrap()).unwrap();
    C::abi_decode_returns(&data).unwrap()
}

fn equal<T: PartialEq + Debug>(what: &str, left: &T, right: &T) -> Result<(), TestCaseError> {
    if left == right {
        Ok(())
    } else {
        Err(TestCaseError::fail(format!(
            "{what}: the contract says {left:?}, the ledger {right:?}"
        )))
    }
}

/// Whether the contract did with batch `seq` what the books say.
fn compare(
    world: &World,
    seq: u64,
    answer: &Value,
    content: &Batch,
    books: &mut Books,
) -> Result<(), TestCaseError> {
    equal("status", &answer["status"], &json!("0x1"))?;
    let logs: Vec<Log> = serde_json::from_value(answer["logs"].clone()).unwrap();
    let event = logs
        .iter()
        .find_map(|log| Settlement::BatchSettled::decode_log(&log.inner).ok())
        .unwrap();
    let said = batch::outcome(event.summary, &event.amounts).unwrap();
    let (expected, skipped) = books.settle(content);
    equal("outcome", &said, &expected)?;
    let stated: Vec<Statement> = logs
        .iter()
        .filter_map(|log| Settlement::Stated::decode_log(&log.inner).ok())
        .map(|event| Statement {
            kind: event.kind,
            number: event.number,
            subject: event.subject,
            content: event.content,
        })
        .collect();
    equal("statements", &stated, &content.statements)?;
    let read = outcome::read(&logs, world.settlement, LANE, seq, content).unwrap();
    equal("what was left out", &read.skipped, &skipped)
}

/// Settles the payloads one after the other and compares groups, reasons, balances, credits and paid numbers.
async fn settle_and_compare(world: &World, payloads: &[Vec<u8>]) -> Result<(), TestCaseError> {
    let mut calls = Vec::new();
    let mut prev = B256::ZERO;
    for (seq, data) in (1..).zip(payloads) {
        let (call, next) = settle_call(world, seq, prev, data);
        calls.push(call);
        prev = next;
    }
    let payers = 0..=u32::try_from(BALANCES.len()).unwrap() - 1;
    for payer in payers.clone() {
        calls.push(Settlement::balanceOfCall { lane: LANE, payer }.abi_encode());
    }
    for provider in 1..=ACTIVE {
        calls.push(Settlement::creditOfCall { provider }.abi_encode());
    }
    calls.push(Settlement::headCall { lane: LANE }.abi_encode());
    let answers = simulate(world, &calls).await;
    let (settled, read) = answers.split_at(payloads.len());
    let mut books = Books::new();
    for ((seq, data), answer) in (1..).zip(payloads).zip(settled) {
        let content = batch::decode(data).unwrap();
        compare(world, seq, answer, &content, &mut books)?;
    }
    let mut read = read.iter();
    for payer in payers {
        let balance = returned::<Settlement::balanceOfCall>(read.next().unwrap());
        equal("balance", &balance, &books.balances[&payer])?;
    }
    for provider in 1..=ACTIVE {
        let credit = returned::<Settlement::creditOfCall>(read.next().unwrap());
        equal("credit", &credit, &books.credits[&provider])?;
    }
    let head = returned::<Settlement::headCall>(read.next().unwrap());
    equal("chain hash", &head.chainHash, &prev)
}

fn price() -> impl Strategy<Value = u64> {
    prop_oneof![
        Just(0),
        Just(1),
        Just(batch::EMISSION_PRICE),
        Just(u64::MAX),
        1..=2_000_000_000_000_u64,
        (0..64_u32).prop_map(|bit| 1 << bit),
        any::<u64>(),
    ]
}

prop_compose! {
    fn groups(most: usize)(groups in prop::collection::vec((0_u32..6, 0_u32..7, price()), 1..=most)) -> Vec<Group> {
        groups.into_iter().map(|(payer, provider, price)| Group { payer, provider, price }).collect()
    }
}

/// Units of at most so many bits: none, one, a lease, the most.
fn units(bits: u32) -> impl Strategy<Value = u64> {
    let most = (1 << bits) - 1;
    prop_oneof![
        1 => Just(0),
        1 => Just(1),
        3 => 0..=most.min(86_400_000),
        2 => 0..=most,
        1 => Just(most),
    ]
}

fn numbers(most: usize) -> impl Strategy<Value = BTreeSet<u64>> {
    let dense = prop::collection::btree_set(0_u64..3_000, 1..=most);
    let sparse = prop::collection::btree_set(0..=LAST_NUMBER, 1..40);
    let last = prop::collection::btree_set(LAST_NUMBER - 300..=LAST_NUMBER, 1..40);
    prop_oneof![8 => dense, 1 => sparse, 1 => last]
}

/// Entries of these numbers over some of these groups.
fn entries(most: usize, most_groups: usize) -> impl Strategy<Value = Vec<Entry>> {
    (numbers(most), groups(most_groups)).prop_flat_map(|(numbers, groups)| {
        // What the encoder takes beside so many groups.
        let group_bits = usize::BITS - (groups.len() - 1).leading_zeros();
        let rows = prop::collection::vec((any::<Index>(), units(48 - group_bits)), numbers.len());
        (Just(numbers), Just(groups), rows).prop_map(|(numbers, groups, rows)| {
            let rows = numbers.into_iter().zip(rows);
            rows.map(|(job_no, (group, units))| {
                let group = group.get(&groups);
                Entry {
                    job_no,
                    payer: group.payer,
                    provider: group.provider,
                    price: group.price,
                    units,
                }
            })
            .collect()
        })
    })
}

/// Runs `check` for so many values of `strategy` in one world.
fn for_all<S: Strategy>(
    cases: u32,
    strategy: &S,
    mut check: impl FnMut(&Runtime, &World, S::Value) -> Result<(), TestCaseError>,
) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let world = runtime.block_on(market());
    let check = std::cell::RefCell::new(&mut check);
    let config = Config {
        cases,
        failure_persistence: None,
        ..Config::default()
    };
    TestRunner::new(config)
        .run(strategy, |value| {
            check.borrow_mut()(&runtime, &world, value)
        })
        .unwrap();
}

#[test]
fn the_contract_pays_what_the_ledger_computes() {
    let two = prop_oneof![
        9 => (entries(150, 40), entries(150, 40)),
        1 => (entries(700, 700), entries(10, 3)),
    ];
    for_all(300, &two, |runtime, world, (one, other)| {
        let payloads = [one, other].map(|entries| batch::encode(&entries, &[]).unwrap());
        runtime.block_on(settle_and_compare(world, &payloads))
    });
}

/// How a payload is spoilt.
#[derive(Clone, Debug)]
enum Damage {
    Cut(Index),
    Extended(Vec<u8>),
    Flipped(Index, u8),
    Header(usize, u8),
    Byte(Index, u8),
    Noise(Vec<u8>),
}

fn damage() -> impl Strategy<Value = Damage> {
    prop_oneof![
        2 => any::<Index>().prop_map(Damage::Cut),
        1 => prop::collection::vec(any::<u8>(), 1..40).prop_map(Damage::Extended),
        4 => (any::<Index>(), 0_u8..8).prop_map(|(at, bit)| Damage::Flipped(at, bit)),
        3 => (0_usize..7, 0_u8..12).prop_map(|(at, byte)| Damage::Header(at, byte)),
        2 => (any::<Index>(), any::<u8>()).prop_map(|(at, byte)| Damage::Byte(at, byte)),
        1 => prop::collection::vec(any::<u8>(), 0..200).prop_map(Damage::Noise),
    ]
}

impl Damage {
    fn done_to(self, mut data: Vec<u8>) -> Vec<u8> {
        match self {
            Self::Cut(at) => data.truncate(at.index(data.len())),
            Self::Extended(more) => data.extend(more),
            Self::Flipped(at, bit) => {
                let at = at.index(data.len());
                data[at] ^= 1 << bit;
            }
            Self::Header(at, byte) => data[at] = byte,
            Self::Byte(at, byte) => {
                let at = at.index(data.len());
                data[at] = byte;
            }
            Self::Noise(noise) => data = noise,
        }
        data
    }
}

/// Whether no record of a group that is not there has units. Only such payloads are read differently: the contract marks
/// these records as paid with nothing, the ledger refuses them.
fn owes_nothing_outside(data: &[u8]) -> bool {
    let width = usize::from(data[0]);
    let unit_bits = 8 * width - usize::from(data[1]);
    let groups = usize::from(u16::from_be_bytes([data[2], data[3]]));
    let words = usize::from(u16::from_be_bytes([data[4], data[5]]));
    let statements = 69 * usize::from(data[6]);
    data[7 + 32 * words + 16 * groups..data.len() - statements]
        .chunks(width)
        .all(|record| {
            let record = record
                .iter()
                .fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte));
            let group = usize::try_from(record >> unit_bits).unwrap();
            group < groups || record & ((1 << unit_bits) - 1) == 0
        })
}

/// Two groups that say the same: whose records are whose cannot be told from the entries, so nothing is compared.
fn has_twins(content: &Batch) -> bool {
    let groups: BTreeSet<&Group> = content.groups.iter().collect();
    groups.len() < content.groups.len()
}

#[test]
fn what_the_ledger_cannot_read_the_contract_refuses_and_the_other_way_round() {
    let statements = prop::collection::vec(any::<(u8, u32, [u8; 32], [u8; 32])>(), 0..3);
    let spoilt =
        (entries(40, 6), statements, damage()).prop_map(|(entries, statements, damage)| {
            let statements: Vec<Statement> = statements
                .into_iter()
                .map(|(kind, number, subject, content)| Statement {
                    kind,
                    number,
                    subject: subject.into(),
                    content: content.into(),
                })
                .collect();
            damage.done_to(batch::encode(&entries, &statements).unwrap())
        });
    let (mut refused, mut taken) = (0, 0);
    for_all(1000, &spoilt, |runtime, world, data| {
        let (call, _) = settle_call(world, 1, B256::ZERO, &data);
        let answers = runtime.block_on(simulate(world, &[call]));
        let answer = &answers[0];
        let refusal = hex::encode_prefixed(Settlement::BadEncoding {}.abi_encode());
        let is_refused = answer["status"] == "0x0";
        if is_refused {
            refused += 1;
            equal("refusal", &answer["returnData"], &json!(refusal))?;
        }
        match batch::decode(&data) {
            Ok(content) if has_twins(&content) => equal("refused", &is_refused, &false),
            Ok(content) => {
                taken += 1;
                compare(world, 1, answer, &content, &mut Books::new())
            }
            Err(DecodeError::UnknownGroup { .. }) => {
                equal("refused", &is_refused, &!owes_nothing_outside(&data))
            }
            Err(error) => equal(&error.to_string(), &is_refused, &true),
        }
    });
    assert!(
        refused > 300 && taken > 60,
        "{refused} refused, {taken} taken"
    );
}
