//! Which owners' weights are cut at present: settled by placement once per epoch, read by the controller of GpuNodes, which shows it.

use std::sync::{Arc, Mutex, PoisonError};

use k8s_openapi::jiff::{SignedDuration, Timestamp};

use crate::scheduler::{
    Snapshot,
    owner_cap::{Cuts, EPOCH, OwnerCap},
};

/// The cuts in force, once there are any. Cloning shares them.
#[derive(Clone, Debug, Default)]
pub struct OwnerCuts(Arc<Mutex<Option<Arc<Cuts>>>>);

impl OwnerCuts {
    /// Those in force; `None`: this replica does not know yet.
    #[must_use]
    pub fn get(&self) -> Option<Arc<Cuts>> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// These are in force from now on; `None`: this replica does not know any more.
    pub fn set(&self, cuts: Option<Arc<Cuts>>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = cuts;
    }
}

/// The cuts of one moment.
#[derive(Clone, Debug)]
pub struct Epoch {
    /// When they were made.
    pub begun: Timestamp,
    /// What one owner may have.
    pub cap: OwnerCap,
    /// The cuts.
    pub cuts: Arc<Cuts>,
}

impl Epoch {
    /// The epoch that begins at `now` on this `fleet`.
    #[must_use]
    pub fn begin(cap: OwnerCap, fleet: &Snapshot, now: Timestamp) -> Self {
        Self {
            begun: now,
            cap,
            cuts: Arc::new(fleet.cuts(cap)),
        }
    }

    /// Whether it lasts at `now`. Where the clock was set back it does not.
    #[must_use]
    pub fn lasts(&self, now: Timestamp) -> bool {
        let age = now.duration_since(self.begun);
        let epoch = SignedDuration::try_from(EPOCH).unwrap_or(SignedDuration::MAX);
        !age.is_negative() && age < epoch
    }
}

/// The nodes whose cut is another one than before.
pub fn changed<'a>(
    fleet: &'a Snapshot,
    before: &'a Cuts,
    now: &'a Cuts,
) -> impl Iterator<Item = &'a str> {
    fleet.nodes().iter().filter_map(move |node| {
        let facts = node.facts();
        let (model, owner) = (facts.model(), facts.owner.as_deref());
        (before.get(model, owner) != now.get(model, owner)).then_some(facts.name.as_str())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scheduler::{SnapshotInputs, fixtures, snapshot::NodeCapacity};

    fn fleet(owners: &[(&str, &str, u64)]) -> Snapshot {
        let nodes = owners.iter().map(|(name, owner, stake)| {
            let mut facts = fixtures::node(name, 8);
            facts.owner = Some((*owner).to_owned());
            facts.stake = *stake;
            facts
        });
        Snapshot::assemble(SnapshotInputs {
            nodes: nodes.collect(),
            ..SnapshotInputs::default()
        })
    }

    #[test]
    fn an_epoch_lasts_ten_minutes_and_ends_where_the_clock_goes_back() {
        let begun = Timestamp::from_second(1_800_000_000).unwrap();
        let epoch = Epoch::begin(OwnerCap::default(), &fleet(&[]), begun);
        let after = |milliseconds| begun + SignedDuration::from_millis(milliseconds);
        for (at, lasts) in [(0, true), (599_999, true), (600_000, false), (-1, false)] {
            assert_eq!(epoch.lasts(after(at)), lasts, "{at}");
        }
    }

    #[test]
    fn nodes_weigh_what_the_epoch_leaves_of_them() {
        let mut fleet = fleet(&[
            ("n1", "whale", 600),
            ("n2", "whale", 300),
            ("n3", "a", 50),
            ("n4", "b", 50),
        ]);
        let full: Vec<u64> = fleet
            .nodes()
            .iter()
            .map(NodeCapacity::full_weight)
            .collect();
        let epoch = Epoch::begin(OwnerCap::default(), &fleet, Timestamp::UNIX_EPOCH);
        fleet.cut(&epoch.cuts);
        let left: Vec<u64> = fleet.nodes().iter().map(NodeCapacity::weight).collect();
        // Three owners: two thirds of what is left, 200 of 300.
        let sum = full[0] + full[1];
        let level = 2 * (full[2] + full[3]);
        assert_eq!(
            left[0],
            u64::try_from(u128::from(full[0]) * u128::from(level) / u128::from(sum)).unwrap()
        );
        assert_eq!((left[2], left[3]), (full[2], full[3]));
        let nobody = Cuts::default();
        let whales: Vec<&str> = changed(&fleet, &nobody, &epoch.cuts).collect();
        assert_eq!(whales, ["n1", "n2"]);
        assert_eq!(changed(&fleet, &epoch.cuts, &epoch.cuts).count(), 0);
        // An epoch without cuts gives them back.
        fleet.cut(&nobody);
        assert_eq!(fleet.nodes()[0].weight(), full[0]);
    }
}
