//! What the lane has to state on chain, and what it has stated: changed inventories, the log of uptime, the week's
//! earnings. Statements travel in batches, so each is made once, in the order of the batches.
//!
//! An inventory does not wait for a batch that is worth its fee, since a node's GPUs are not offered before it is stated;
//! earnings wait as long as a slice may; the log of uptime goes with the next batch whatever that is.

use std::{
    collections::{BTreeMap, BTreeSet},
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

/// What is known. Nothing of it needs to outlive the process: what is declared is declared again, and what was stated stands
/// in the log and in the status of whom it concerns. A statement that is repeated says the same.
#[derive(Debug, Default)]
struct State {
    /// What should stand on chain about a node's GPUs, by the node's name.
    inventories: BTreeMap<String, Statement>,
    /// Reports that are due, and since when, in Unix milliseconds.
    earnings: BTreeMap<Statement, u64>,
    /// The newest head of the log of uptime.
    uptime: Option<Statement>,
    /// Every week before this one is reported in full.
    reported_before: Option<Week>,
    /// The content that mined batches have stated last, by kind and subject.
    stated: BTreeMap<(u8, B256), (u32, B256)>,
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
    fn is_stated(&self, statement: &Statement) -> bool {
        self.stated.get(&(statement.kind, statement.subject))
            == Some(&(statement.number, statement.content))
    }

    /// What goes into the next batch, less what `held` batches hold that are not mined yet.
    fn due(&self, held: &BTreeSet<Statement>) -> Due {
        let is_due =
            |statement: &&Statement| !held.contains(*statement) && !self.is_stated(statement);
        let mut due = Due::default();
        due.statements
            .extend(self.inventories.values().filter(is_due).take(MOST));
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
    pub fn declare(&self, node: &str, inventory: Option<Statement>) {
        let mut state = self.state();
        let news = match inventory {
            Some(inventory) => {
                let before = state.inventories.insert(node.to_owned(), inventory);
                before != Some(inventory) && !state.is_stated(&inventory)
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

    /// The log of uptime has this head.
    pub fn uptime(&self, head: Statement) {
        self.state().uptime = Some(head);
    }

    /// Whether a mined batch has said so, and none has said anything else since.
    #[must_use]
    pub fn is_stated(&self, statement: &Statement) -> bool {
        self.state().is_stated(statement)
    }

    /// A mined batch has stated this. Returns the nodes whose declared inventory it was.
    #[must_use = "these nodes may be offered now"]
    pub fn stated(&self, statements: &[Statement]) -> Vec<String> {
        let mut state = self.state();
        let mut nodes = Vec::new();
        for said in statements {
            let before = state
                .stated
                .insert((said.kind, said.subject), (said.number, said.content));
            if before == Some((said.number, said.content)) || said.kind != statement::INVENTORY {
                continue;
            }
            let declared = state.inventories.iter().filter(|(_, own)| *own == said);
            nodes.extend(declared.map(|(node, _)| node.clone()));
        }
        nodes
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

    /// What goes into the next batch, less what `held` batches hold.
    #[must_use]
    pub fn due(&self, held: &BTreeSet<Statement>) -> Due {
        self.state().due(held)
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
    fn an_inventory_is_due_until_a_batch_holds_it_and_again_when_it_changes() {
        let statements = Statements::default();
        let (old, new) = (inventory("n1", 1), inventory("n1", 2));
        statements.declare("n1", Some(old));
        statements.declare("n1", Some(old));
        assert_eq!(beats(&statements), 1);
        let none = BTreeSet::new();
        assert_eq!(statements.due(&none).statements, [old]);
        assert!(statements.due(&none).urgent);
        assert_eq!(statements.due(&BTreeSet::from([old])), Due::default());
        assert_eq!(statements.stated(&[old]), ["n1"]);
        assert!(statements.is_stated(&old));
        assert_eq!(statements.due(&none), Due::default());
        // It is told of once.
        assert!(statements.stated(&[old]).is_empty());

        statements.declare("n1", Some(new));
        assert_eq!(statements.due(&none).statements, [new]);
        assert_eq!(statements.stated(&[new]), ["n1"]);
        assert!(!statements.is_stated(&old));
        // The old GPUs are back: that is news again.
        statements.declare("n1", Some(old));
        assert_eq!(
            (beats(&statements), statements.due(&none).statements),
            (3, vec![old])
        );
        statements.declare("n1", None);
        assert_eq!(statements.due(&none), Due::default());
    }

    #[test]
    fn reports_are_due_since_they_were_first_and_end_with_the_list() {
        let statements = Statements::default();
        statements.report([report(1), report(2)], 1_000);
        statements.report([report(2), report(3)], 2_000);
        let due = statements.due(&BTreeSet::new());
        assert_eq!(due.statements, [report(2), report(3)]);
        assert_eq!((due.urgent, due.oldest_ms), (false, Some(1_000)));
        let due = statements.due(&BTreeSet::from([report(2)]));
        assert_eq!(
            (due.statements, due.oldest_ms),
            (vec![report(3)], Some(2_000))
        );
        assert!(statements.stated(&[report(2), report(3)]).is_empty());
        assert_eq!(statements.due(&BTreeSet::new()), Due::default());
    }

    #[test]
    fn the_log_of_uptime_goes_with_others_and_presses_nobody() {
        let statements = Statements::default();
        statements.uptime(statement::uptime(5, B256::repeat_byte(1)));
        let newest = statement::uptime(6, B256::repeat_byte(2));
        statements.uptime(newest);
        let due = statements.due(&BTreeSet::new());
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
            statements.declare(&node, Some(inventory(&node, 1)));
        }
        statements.report((0..100).map(report), 5);
        let first = statements.due(&BTreeSet::new());
        assert_eq!(first.statements.len(), MOST);
        let held: BTreeSet<Statement> = first.statements.into_iter().collect();
        let second = statements.due(&held);
        assert_eq!((second.statements.len(), second.urgent), (MOST, true));
        assert_eq!(second.oldest_ms, Some(5));
    }
}
