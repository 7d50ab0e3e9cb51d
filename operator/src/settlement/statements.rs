//! What the lane has to state on chain, and what it has stated: changed inventories, the log of uptime, the week's
//! earnings. Statements travel in batches, so each is made once, in the order of the batches.
//!
//! An inventory does not wait for a batch that is worth its fee, since a node's GPUs are not offered before it is stated;
//! earnings wait as long as a slice may; the log of uptime goes with the next batch whatever that is.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use alloy::primitives::B256;
use gridstake_ledger::{
    statement::{self, Statement},
    week::Week,
};
use tokio::sync::watch;

use crate::caches::triggers::Pulse;

/// The most statements of one batch: they take 69 of its 16,384 bytes each.
pub const MOST: usize = 64;

/// What a lane is to state and has stated. Cloning shares it.
#[derive(Clone, Debug, Default)]
pub struct Statements(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    news: Pulse,
}

/// What should stand on chain about a node's GPUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Declared {
    /// What is to be stated.
    pub statement: Statement,
    /// Whether the GpuNode says that just this was stated last. It does not know of batches that are under way.
    pub posted: bool,
}

/// What is stated by batches that are in no block yet, the newest of them counting.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unmined(BTreeMap<Subject, (u32, B256)>);

impl Unmined {
    /// Adds what a batch states. Batches come in the order of their numbers.
    pub fn add(&mut self, statements: &[Statement]) {
        let said = statements.iter().map(|said| (subject(said), content(said)));
        self.0.extend(said);
    }
}

/// About what a later statement takes the place of an earlier one: kind, subject, and of earnings the week.
type Subject = (u8, B256, u32);

fn subject(statement: &Statement) -> Subject {
    let week = match statement.kind {
        statement::EARNINGS => statement.number,
        _ => 0,
    };
    (statement.kind, statement.subject, week)
}

const fn content(statement: &Statement) -> (u32, B256) {
    (statement.number, statement.content)
}

/// What is known. Nothing of it needs to outlive the process: what is declared is declared again, and what was stated stands
/// in the log, and of batches that have left it in the status of whom it concerns. A statement that is repeated says the same.
#[derive(Debug, Default)]
struct State {
    /// What should stand on chain about a node's GPUs, by the node's name.
    inventories: BTreeMap<String, Declared>,
    /// Reports that are due, and since when, in Unix milliseconds.
    earnings: BTreeMap<Statement, u64>,
    /// The newest head of the log of uptime.
    uptime: Option<Statement>,
    /// Whether a batch is to be made of what is stated already, if nothing else makes one.
    repeats: bool,
    /// Every week before this one is reported in full.
    reported_before: Option<Week>,
    /// What mined batches have stated last; `None` where what was stated last is in no block any more, or not yet.
    stated: BTreeMap<Subject, Option<(u32, B256)>>,
}

/// What goes into a batch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Due {
    /// In the order of the payload.
    pub statements: Vec<Statement>,
    /// Whether one of them is worth a batch of its own whatever it costs.
    pub urgent: bool,
    /// Since when the one among them has been due that may wait as long as a slice, in Unix milliseconds.
    pub oldest_ms: Option<u64>,
}

impl Due {
    /// Whether a batch may be built for these alone.
    #[must_use]
    pub const fn ask_for_a_batch(&self) -> bool {
        self.urgent || self.oldest_ms.is_some()
    }
}

impl State {
    fn is_stated(&self, statement: &Statement) -> Option<bool> {
        let last = self.stated.get(&subject(statement))?;
        Some(*last == Some(content(statement)))
    }

    /// Whether something else, or nothing, is said last when all batches are mined.
    fn is_due(&self, statement: &Statement, posted: bool, unmined: &Unmined) -> bool {
        let about = subject(statement);
        let under_way = unmined.0.get(&about);
        let said = under_way.map(|last| *last == content(statement));
        !said.or_else(|| self.is_stated(statement)).unwrap_or(posted)
    }

    /// What goes into the next batch.
    fn due(&self, unmined: &Unmined) -> Due {
        let is_due = |statement: &&Statement| self.is_due(statement, false, unmined);
        let mut due = Due::default();
        let inventories = self
            .inventories
            .values()
            .filter(|declared| self.is_due(&declared.statement, declared.posted, unmined))
            .map(|declared| declared.statement);
        due.statements.extend(inventories.take(MOST));
        let is_under_way =
            |declared: &&Declared| unmined.0.contains_key(&subject(&declared.statement));
        if self.repeats && due.statements.is_empty() {
            let mut known = self.inventories.values().filter(|one| !is_under_way(one));
            due.statements.extend(known.next().map(|one| one.statement));
        }
        due.urgent = !due.statements.is_empty();
        let reports = self
            .earnings
            .iter()
            .filter(|(statement, _)| is_due(statement));
        for (statement, since_ms) in reports.take(MOST - due.statements.len()) {
            due.statements.push(*statement);
            due.oldest_ms = Some(due.oldest_ms.map_or(*since_ms, |ms| ms.min(*since_ms)));
        }
        let uptime = self.uptime.as_ref().filter(is_due);
        due.statements
            .extend(uptime.filter(|_| due.statements.len() < MOST));
        due
    }
}

impl Statements {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What should stand on chain about the GPUs of `node`; `None` if nothing has to be stated about it.
    pub fn declare(&self, node: &str, inventory: Option<Declared>) {
        let mut state = self.state();
        let news = match inventory {
            Some(declared) => {
                let before = state.inventories.insert(node.to_owned(), declared);
                let known = Unmined::default();
                before.is_none_or(|before| before.statement != declared.statement)
                    && state.is_due(&declared.statement, declared.posted, &known)
            }
            None => {
                state.inventories.remove(node);
                false
            }
        };
        drop(state);
        if news {
            self.0.news.beat();
        }
    }

    /// These reports are due since `now_ms`, in Unix milliseconds, unless they were before; no others are.
    pub fn report(&self, reports: impl IntoIterator<Item = Statement>, now_ms: u64) {
        let mut state = self.state();
        let before = std::mem::take(&mut state.earnings);
        let mut news = false;
        for report in reports {
            let since = before.get(&report).copied();
            news |= since.is_none();
            state.earnings.insert(report, since.unwrap_or(now_ms));
        }
        drop(state);
        if news {
            self.0.news.beat();
        }
    }

    /// Whether an inventory is to be stated once more, which says the same, should there be nothing else to make a batch of.
    pub fn repeat_one(&self, repeats: bool) {
        let mut state = self.state();
        let news = repeats && !state.repeats;
        state.repeats = repeats;
        drop(state);
        if news {
            self.0.news.beat();
        }
    }

    /// The log of uptime has this head.
    pub fn uptime(&self, head: Statement) {
        self.state().uptime = Some(head);
    }

    /// Whether a mined batch has said so, and none has said anything else since; `None` if that is not known.
    #[must_use]
    pub fn is_stated(&self, statement: &Statement) -> Option<bool> {
        self.state().is_stated(statement)
    }

    /// A batch that states this is in no block: it waits for one, was reorganised away, or can never be mined. Unless
    /// something else was stated since, nobody knows any more what was. Returns the nodes whose declared inventory it was.
    #[must_use = "these nodes may be offered no more"]
    pub fn not_mined(&self, statements: &[Statement]) -> Vec<String> {
        let mut state = self.state();
        let mut nodes = Vec::new();
        let mut news = false;
        for said in statements {
            let last = state.stated.get(&subject(said)).copied();
            if last.is_some_and(|last| last != Some(content(said))) {
                continue;
            }
            state.stated.insert(subject(said), None);
            if last.is_some() {
                news = true;
                let its = |(_, declared): &(&String, &Declared)| declared.statement == *said;
                nodes.extend(
                    state
                        .inventories
                        .iter()
                        .filter(its)
                        .map(|(node, _)| node.clone()),
                );
            }
        }
        drop(state);
        if news {
            self.0.news.beat();
        }
        nodes
    }

    /// A mined batch has stated this. Returns the nodes whose declared inventory it was.
    #[must_use = "these nodes may be offered now"]
    pub fn stated(&self, statements: &[Statement]) -> Vec<String> {
        let mut state = self.state();
        let mut nodes = Vec::new();
        let mut news = false;
        for said in statements {
            let before = state.stated.insert(subject(said), Some(content(said)));
            if before.flatten() == Some(content(said)) || said.kind != statement::INVENTORY {
                continue;
            }
            for (node, declared) in &state.inventories {
                if declared.statement == *said {
                    nodes.push(node.clone());
                }
                // The node changed back while the batch was under way.
                news |= declared.statement.subject == said.subject && declared.statement != *said;
            }
        }
        drop(state);
        if news {
            self.0.news.beat();
        }
        nodes
    }

    /// The log shows these to be stated, in the order of their batches, whoever built them.
    pub fn recall(&self, said: impl IntoIterator<Item = Statement>) {
        let last: BTreeMap<Subject, (u32, B256)> = said
            .into_iter()
            .map(|said| (subject(&said), content(&said)))
            .collect();
        let mut state = self.state();
        for (about, said) in last {
            state.stated.insert(about, Some(said));
        }
    }

    /// The earnings of every week before this one are reported in full.
    pub fn reported_before(&self, week: Week) {
        self.state().reported_before = Some(week);
    }

    /// Whether the earnings of the week in which `seconds` (Unix time) lie are reported in full. `false` while that is not
    /// known.
    #[must_use]
    pub fn is_reported(&self, seconds: u64) -> bool {
        let reported = self.state().reported_before;
        reported.is_some_and(|before| Week::of(seconds) < before)
    }

    /// What goes into the next batch.
    #[must_use]
    pub fn due(&self, unmined: &Unmined) -> Due {
        self.state().due(unmined)
    }

    /// Changes when something becomes due.
    #[must_use]
    pub fn news(&self) -> watch::Receiver<u64> {
        self.0.news.changes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inventory(node: &str, byte: u8) -> Statement {
        Statement {
            kind: statement::INVENTORY,
            number: 8,
            subject: statement::node_id(node),
            content: B256::repeat_byte(byte),
        }
    }

    fn declared(statement: Statement) -> Declared {
        Declared {
            statement,
            posted: false,
        }
    }

    fn under_way(statements: &[Statement]) -> Unmined {
        let mut unmined = Unmined::default();
        unmined.add(statements);
        unmined
    }

    fn report(provider: u32) -> Statement {
        Statement {
            kind: statement::EARNINGS,
            number: 202_648,
            subject: statement::provider_id(provider),
            content: B256::repeat_byte(9),
        }
    }

    fn beats(statements: &Statements) -> u64 {
        *statements.news().borrow()
    }

    #[test]
    fn where_nothing_is_to_be_stated_an_inventory_is_stated_once_more_if_that_is_asked_for() {
        let statements = Statements::default();
        statements.repeat_one(true);
        assert!(!statements.due(&Unmined::default()).ask_for_a_batch());
        let (one, other) = (inventory("n1", 1), inventory("n2", 2));
        for said in [one, other] {
            statements.declare("n1", Some(declared(one)));
            statements.declare("n2", Some(declared(other)));
            let _ = statements.stated(&[said]);
        }
        let due = statements.due(&Unmined::default());
        assert_eq!((due.statements, due.urgent), (vec![one], true));
        // It is on its way.
        let due = statements.due(&under_way(&[one]));
        assert_eq!(due.statements, [other]);
        statements.repeat_one(false);
        assert!(!statements.due(&Unmined::default()).ask_for_a_batch());
    }

    #[test]
    fn an_inventory_is_due_until_a_batch_holds_it_and_again_when_it_changes() {
        let statements = Statements::default();
        let (old, new) = (inventory("n1", 1), inventory("n1", 2));
        statements.declare("n1", Some(declared(old)));
        statements.declare("n1", Some(declared(old)));
        assert_eq!(beats(&statements), 1);
        let none = Unmined::default();
        assert_eq!(statements.due(&none).statements, [old]);
        assert!(statements.due(&none).urgent);
        assert_eq!(statements.due(&under_way(&[old])), Due::default());
        assert_eq!(statements.stated(&[old]), ["n1"]);
        assert_eq!(statements.is_stated(&old), Some(true));
        assert_eq!(statements.due(&none), Due::default());
        // It is told of once.
        assert!(statements.stated(&[old]).is_empty());

        statements.declare("n1", Some(declared(new)));
        assert_eq!(statements.due(&none).statements, [new]);
        assert_eq!(statements.stated(&[new]), ["n1"]);
        assert_eq!(statements.is_stated(&old), Some(false));
        // The old GPUs are back: that is news again.
        statements.declare("n1", Some(declared(old)));
        assert_eq!(
            (beats(&statements), statements.due(&none).statements),
            (3, vec![old])
        );
        statements.declare("n1", None);
        assert_eq!(statements.due(&none), Due::default());
    }

    #[test]
    fn a_node_that_changes_back_while_its_change_is_under_way_is_stated_again() {
        let statements = Statements::default();
        let (old, new) = (inventory("n1", 1), inventory("n1", 2));
        let posted = Some(Declared {
            statement: old,
            posted: true,
        });
        statements.declare("n1", posted);
        assert_eq!(
            (beats(&statements), statements.due(&Unmined::default())),
            (0, Due::default())
        );
        statements.declare("n1", Some(declared(new)));
        let sent = under_way(&[new]);
        // The GPU is back, and the GpuNode knows of nothing else.
        statements.declare("n1", posted);
        assert_eq!(statements.due(&sent).statements, [old]);
        let both = under_way(&[new, old]);
        assert_eq!(statements.due(&both), Due::default());
        // After a restart, only the mined batch shows it.
        let before = beats(&statements);
        assert!(statements.stated(&[new]).is_empty());
        assert_eq!(beats(&statements), before + 1);
        assert_eq!(statements.due(&Unmined::default()).statements, [old]);
    }

    #[test]
    fn what_was_mined_and_is_in_no_block_any_more_is_stated_again() {
        let statements = Statements::default();
        let (old, new) = (inventory("n1", 1), inventory("n1", 2));
        statements.declare("n1", Some(declared(old)));
        assert!(statements.not_mined(&[old]).is_empty());
        assert_eq!(statements.is_stated(&old), Some(false));
        assert_eq!(statements.due(&under_way(&[old])), Due::default());
        assert_eq!(statements.stated(&[old]), ["n1"]);
        let before = beats(&statements);
        // Its block is gone: the same batch waits for another one.
        assert_eq!(statements.not_mined(&[old]), ["n1"]);
        assert!(statements.not_mined(&[old]).is_empty());
        assert_eq!(beats(&statements), before + 1);
        assert_eq!(statements.due(&under_way(&[old])), Due::default());
        // It can never be mined, and the GpuNode may believe that it was.
        let posted = Declared {
            statement: old,
            posted: true,
        };
        statements.declare("n1", Some(posted));
        assert_eq!(statements.due(&Unmined::default()).statements, [old]);

        // What another batch has said since is not touched.
        assert!(statements.stated(&[new]).is_empty());
        assert!(statements.not_mined(&[old]).is_empty());
        assert_eq!(statements.is_stated(&new), Some(true));
    }

    #[test]
    fn what_the_log_shows_counts_more_than_what_a_gpu_node_was_told() {
        let statements = Statements::default();
        let (old, new) = (inventory("n1", 1), inventory("n1", 2));
        // The GpuNode was told of the one before, and nobody lived to tell it of the newest.
        statements.declare(
            "n1",
            Some(Declared {
                statement: old,
                posted: true,
            }),
        );
        assert_eq!(statements.due(&Unmined::default()), Due::default());
        statements.recall([old, new]);
        assert_eq!(
            (statements.is_stated(&old), statements.is_stated(&new)),
            (Some(false), Some(true))
        );
        assert_eq!(statements.due(&Unmined::default()).statements, [old]);
    }

    #[test]
    fn reports_are_due_since_they_were_first_and_end_with_the_list() {
        let statements = Statements::default();
        statements.report([report(1), report(2)], 1_000);
        statements.report([report(2), report(3)], 2_000);
        let due = statements.due(&Unmined::default());
        assert_eq!(due.statements, [report(2), report(3)]);
        assert_eq!((due.urgent, due.oldest_ms), (false, Some(1_000)));
        let due = statements.due(&under_way(&[report(2)]));
        assert_eq!(
            (due.statements, due.oldest_ms),
            (vec![report(3)], Some(2_000))
        );
        assert!(statements.stated(&[report(2), report(3)]).is_empty());
        assert_eq!(statements.due(&Unmined::default()), Due::default());
    }

    #[test]
    fn the_log_of_uptime_goes_with_others_and_presses_nobody() {
        let statements = Statements::default();
        statements.uptime(statement::uptime(5, B256::repeat_byte(1)));
        let newest = statement::uptime(6, B256::repeat_byte(2));
        statements.uptime(newest);
        let due = statements.due(&Unmined::default());
        assert_eq!(due.statements, [newest]);
        assert_eq!(
            (due.urgent, due.oldest_ms, beats(&statements)),
            (false, None, 0)
        );
    }

    #[test]
    fn no_batch_gets_more_statements_than_fit() {
        let statements = Statements::default();
        for node in 0..100 {
            let node = format!("n{node}");
            statements.declare(&node, Some(declared(inventory(&node, 1))));
        }
        statements.report((0..100).map(report), 5);
        let first = statements.due(&Unmined::default());
        assert_eq!(first.statements.len(), MOST);
        let held = under_way(&first.statements);
        let second = statements.due(&held);
        assert_eq!((second.statements.len(), second.urgent), (MOST, true));
        assert_eq!(second.oldest_ms, Some(5));
    }
}
