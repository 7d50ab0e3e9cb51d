//! Goes through the parts of a log, keeps the fleet as they tell it, and makes each decision again. Pure.

use std::collections::{BTreeMap, HashMap};

use alloy::primitives::B256;
use gridstake_ledger::archive::decisions::{
    Amounts, Cut, Cuts, Decided, Event, Node, Part, UNCUT_VERSION,
};

use super::{
    cuts::{self, EPOCH_MS},
    fits, redo,
};

/// A walk through a log.
#[derive(Clone, Debug, Default)]
pub struct Walk {
    /// By writer: where two replicas believed that they lead, their parts lie between one another.
    writers: HashMap<String, Told>,
    last: Option<B256>,
    /// What came of it so far.
    pub sum: Sum,
}

/// What one writer has told.
#[derive(Clone, Debug, Default)]
struct Told {
    /// Each with the weight that is left of it.
    fleet: BTreeMap<String, Node>,
    /// Whose weights are cut, once that is told.
    cuts: Option<Cuts>,
    /// Whether nobody's are, since the log is older than that.
    is_uncut: bool,
    /// The state at the end of its last part; `None` before a whole part was seen.
    state: Option<B256>,
    /// What each decision took, in case that it is undone.
    standing: HashMap<B256, Decided>,
    /// Its last decision.
    last: Option<B256>,
}

/// What came of a walk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sum {
    /// Decisions made again with the same result.
    pub equal: u64,
    /// Decisions before the first whole part, which cannot be made again.
    pub before_the_fleet: u64,
    /// Decisions that were not carried out, of those that are equal.
    pub undone: u64,
    /// How often a decision follows another one than that before it in the log: what lies between them was not archived.
    pub breaks: u64,
    /// The last decision.
    pub last: Option<B256>,
}

/// Where the log says something that cannot be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The first byte of the line.
    pub at: usize,
    /// What is wrong.
    pub what: String,
}

impl Walk {
    /// Goes through the next part. With `only`, that decision alone is made again.
    ///
    /// # Errors
    /// The first line that cannot be.
    pub fn part(&mut self, part: &Part, only: Option<B256>) -> Result<(), Fault> {
        let head = &part.head;
        let mut told = self.writers.remove(&head.writer).unwrap_or_default();
        if head.whole {
            told = Told {
                state: Some(head.state),
                is_uncut: head.version == UNCUT_VERSION,
                ..Told::default()
            };
        }
        if let Some(state) = told.state.filter(|state| *state != head.state) {
            return Err(Fault {
                at: 0,
                what: format!(
                    "it goes on from the state {}, and the part before it of {} ends in {state}: a part is missing or was put in",
                    head.state, head.writer
                ),
            });
        }
        for (at, event) in &part.events {
            let at = at.start;
            self.event(&mut told, event, only)
                .map_err(|what| Fault { at, what })?;
        }
        told.state = told.state.map(|_| part.end);
        self.writers.insert(head.writer.clone(), told);
        Ok(())
    }

    fn event(&mut self, told: &mut Told, event: &Event, only: Option<B256>) -> Result<(), String> {
        let is_told = told.state.is_some();
        match event {
            Event::Node(node) => {
                let expected = fits::weight(node);
                if node.weight != expected {
                    return Err(format!(
                        "the weight of node {} is {}, and what follows is {expected}",
                        node.name, node.weight
                    ));
                }
                let mut node = (**node).clone();
                node.weight = cuts::weight(&node, told.cuts.as_ref());
                told.fleet.insert(node.name.clone(), node);
            }
            Event::Cuts(cuts) => {
                if is_told {
                    told.check(cuts)?;
                }
                for node in told.fleet.values_mut() {
                    node.weight = cuts::weight(node, Some(cuts));
                }
                told.cuts = Some(cuts.clone());
            }
            Event::Taken(taken) => match told.fleet.get_mut(&taken.node) {
                Some(node) => node.taken = taken.amounts.clone(),
                None if is_told => return Err(format!("there is no node {}", taken.node)),
                None => {}
            },
            Event::Gone(name) => {
                if told.fleet.remove(name).is_none() && is_told {
                    return Err(format!("there is no node {name}"));
                }
            }
            Event::Decision(decided) => self.decision(told, decided, only)?,
            Event::Undone(undone) => match told.standing.remove(&undone.decision) {
                Some(decided) => {
                    told.count(&decided, fits::subtract);
                    self.sum.undone += 1;
                }
                None if is_told => {
                    return Err(format!(
                        "decision {} does not stand, so it cannot be undone",
                        undone.decision
                    ));
                }
                None => {}
            },
        }
        Ok(())
    }

    fn decision(
        &mut self,
        told: &mut Told,
        decided: &Decided,
        only: Option<B256>,
    ) -> Result<(), String> {
        let before = told.last.or(self.last);
        self.sum.breaks += u64::from(before.is_some_and(|before| before != decided.previous));
        told.last = Some(decided.hash);
        self.last = told.last;
        self.sum.last = told.last;
        if told.state.is_none() {
            self.sum.before_the_fleet += 1;
            return Ok(());
        }
        told.check_epoch(decided)?;
        if only.is_none_or(|only| only == decided.hash) {
            redo::redo(&told.fleet, decided).map_err(|difference| {
                format!(
                    "decision {} about attempt {} of job {}: {} is {}, and what follows is {}",
                    decided.hash,
                    decided.attempt,
                    decided.job,
                    difference.part,
                    difference.found,
                    difference.expected
                )
            })?;
            self.sum.equal += 1;
        }
        told.count(decided, fits::add);
        told.standing.insert(decided.hash, decided.clone());
        Ok(())
    }
}

impl Told {
    /// Whether the cuts follow from the fleet as it is told.
    fn check(&self, cuts: &Cuts) -> Result<(), String> {
        let told = |all: &[Cut]| {
            let one = |cut: &Cut| {
                format!(
                    "{} of {} to {} of {}",
                    cut.owner, cut.model, cut.level, cut.sum
                )
            };
            match all {
                [] => "nobody".to_owned(),
                all => all.iter().map(one).collect::<Vec<_>>().join(", "),
            }
        };
        let expected = cuts::expected(self.fleet.values(), cuts.percent);
        if cuts.cuts == expected {
            return Ok(());
        }
        Err(format!(
            "cut is {}, and what follows for {} % is {}",
            told(&cuts.cuts),
            cuts.percent,
            told(&expected)
        ))
    }

    /// Whether it is told whose weights are cut at the moment of the decision.
    fn check_epoch(&self, decided: &Decided) -> Result<(), String> {
        if self.is_uncut {
            return Ok(());
        }
        let age = self
            .cuts
            .as_ref()
            .map(|cuts| decided.at_ms.saturating_sub(cuts.at_ms));
        match age {
            Some(0..EPOCH_MS) => Ok(()),
            Some(age) => Err(format!(
                "decision {}: whose weights are cut was settled {age} ms before it, and is to be settled anew after {EPOCH_MS} ms",
                decided.hash
            )),
            None => Err(format!(
                "decision {}: it is not told whose weights are cut",
                decided.hash
            )),
        }
    }

    /// What the members of a decision take, added or taken away.
    fn count(&mut self, decided: &Decided, change: fn(&mut Amounts, &Amounts)) {
        for drawn in &decided.drawn {
            if let Some(node) = self.fleet.get_mut(&drawn.winner) {
                change(&mut node.taken, &decided.request.each);
            }
        }
    }
}
