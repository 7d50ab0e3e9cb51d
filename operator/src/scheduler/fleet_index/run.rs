//! Neighbours of one class. Model and region come first in the canonical order, so most classes are few runs, and the runs
//! of one kind of GPU stand together.

use std::ops::Range;

use super::class::Class;

/// Nodes from one position to before another, all of one class.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// Their positions.
    pub nodes: Range<usize>,
    /// Their class.
    pub class: Class,
}

/// Neighbouring runs of one kind of GPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// The number of the kind.
    pub gpus: u32,
    /// Their positions.
    pub nodes: Range<usize>,
    /// The runs.
    pub runs: Range<usize>,
}

/// All runs, in the canonical order.
#[derive(Clone, Debug, Default)]
pub struct Runs {
    all: Vec<Run>,
    groups: Vec<Group>,
    counted: bool,
}

impl Runs {
    /// They no longer hold.
    pub fn forget(&mut self) {
        self.counted = false;
    }

    /// Counts them if they do not hold; `classes` are those of all nodes.
    pub fn count(&mut self, classes: impl Iterator<Item = Class>) {
        if self.counted {
            return;
        }
        self.counted = true;
        self.all.clear();
        self.groups.clear();
        for (position, class) in classes.enumerate() {
            match self.all.last_mut() {
                Some(last) if last.class == class => last.nodes.end = position + 1,
                _ => self.all.push(Run {
                    nodes: position..position + 1,
                    class,
                }),
            }
        }
        for (number, run) in self.all.iter().enumerate() {
            match self.groups.last_mut() {
                Some(last) if last.gpus == run.class.gpus => {
                    last.runs.end = number + 1;
                    last.nodes.end = run.nodes.end;
                }
                _ => self.groups.push(Group {
                    gpus: run.class.gpus,
                    nodes: run.nodes.clone(),
                    runs: number..number + 1,
                }),
            }
        }
    }

    /// The groups as they were counted last.
    pub fn groups(&self) -> &[Group] {
        &self.groups
    }

    /// The runs of a group.
    pub fn of(&self, group: &Group) -> &[Run] {
        self.all.get(group.runs.clone()).unwrap_or_default()
    }
}
