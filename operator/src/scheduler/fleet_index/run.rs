//! Neighbours of one class. Model and region come first in the canonical order, so most classes are few runs.

/// Nodes from one position to before another, all of one class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// The first.
    pub from: usize,
    /// Behind the last.
    pub to: usize,
    /// The number of the class.
    pub class: usize,
}

/// All runs, in the canonical order.
#[derive(Clone, Debug, Default)]
pub struct Runs {
    runs: Vec<Run>,
    counted: bool,
}

impl Runs {
    /// They no longer hold.
    pub fn forget(&mut self) {
        self.counted = false;
    }

    /// Counts them if they do not hold; `classes` are those of all nodes.
    pub fn count(&mut self, classes: impl Iterator<Item = u32>) {
        if self.counted {
            return;
        }
        self.counted = true;
        self.runs.clear();
        for (position, class) in classes.enumerate() {
            let class = usize::try_from(class).unwrap_or(usize::MAX);
            match self.runs.last_mut() {
                Some(last) if last.class == class => last.to = position + 1,
                _ => self.runs.push(Run {
                    from: position,
                    to: position + 1,
                    class,
                }),
            }
        }
    }

    /// The runs as they were counted last.
    pub fn all(&self) -> &[Run] {
        &self.runs
    }
}
