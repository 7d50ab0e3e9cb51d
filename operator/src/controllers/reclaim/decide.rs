//! Which attempts give their GPUs back. Pure: no client, no clock, no randomness.
//!
//! For each pod that waits, in the order in which kube-scheduler would serve them: if it fits somewhere as things are, or as
//! they will be when those have left who are on their way, nobody else is asked. Otherwise that node is cleared on which the
//! fewest attempts have to go; of as many, those that have worked least. A gang counts as one and goes as a whole, unless it may go on
//! without those of its members that are on that node: then only these go.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use gridstake_crds::compute_job::AttemptEndReason;
use k8s_openapi::api::core::v1::Node;

use crate::{
    controllers::gpu_node::local_use::WaitingPod,
    scheduler::{JobUid, Resources},
};

/// Up to so many attempts on a node the best choice among all is looked for; among more a good one.
const MOST_TRIED: usize = 12;

/// An attempt of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AttemptKey {
    /// The job.
    pub job: JobUid,
    /// The attempt, counted from 1.
    pub attempt: u32,
}

/// What of an attempt goes together.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Part {
    /// All of it: the members on nodes without which it does not go on, and with them those that could have gone by themselves.
    Whole,
    /// Its members on this node: their ranks are started elsewhere, and the others run on.
    On(String),
    /// Its members on this node that have been given up before.
    GivenUp(String),
}

/// What an attempt holds, or a part of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Tenancy {
    /// Which attempt.
    pub attempt: AttemptKey,
    /// What of it.
    pub part: Part,
    /// Whether its end is decided: its room is on its way.
    pub is_leaving: bool,
    /// Whether it was chosen before and has not written that down yet.
    pub was_asked: bool,
    /// What would be lost: GPUs × seconds that it has run, on all nodes of what goes.
    pub gpu_seconds: u64,
    /// What its members take, by node; of [`Part::Whole`] without those that could go by themselves.
    pub on: BTreeMap<String, Resources>,
}

/// An attempt, and what of it.
pub type PartKey = (AttemptKey, Part);

impl Tenancy {
    /// What goes together here.
    #[must_use]
    pub fn key(&self) -> PartKey {
        (self.attempt, self.part.clone())
    }
}

/// A node with GPUs.
#[derive(Clone, Debug, PartialEq)]
pub struct Room {
    /// The Node.
    pub node: Arc<Node>,
    /// What nobody takes.
    pub free: Resources,
    /// Whether jobs there give way to local pods.
    pub gives_way: bool,
}

/// What is decided on.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sight {
    /// The nodes, by name.
    pub rooms: BTreeMap<String, Room>,
    /// Who holds what.
    pub tenancies: Vec<Tenancy>,
    /// Pods of others that wait for GPUs.
    pub waiting: Vec<WaitingPod>,
    /// Nodes whose windows have closed.
    pub closed: BTreeSet<String>,
}

/// Why GPUs are taken back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    /// The node's last window has closed.
    WindowClosed,
    /// A local pod needs them: its namespace and name.
    LocalPod(String),
    /// A job of higher priority needs them: its namespace and name.
    Priority(String),
}

impl Why {
    /// As what the attempt ends.
    #[must_use]
    pub const fn reason(&self) -> AttemptEndReason {
        match self {
            Self::WindowClosed | Self::LocalPod(_) => AttemptEndReason::Reclaimed,
            Self::Priority(_) => AttemptEndReason::Preempted,
        }
    }

    /// In words for the tenant, who need not know other people's pods.
    #[must_use]
    pub fn for_tenant(&self, node: &str) -> String {
        match self {
            Self::WindowClosed => {
                format!("the offer window of node {node} is over: other nodes are looked for")
            }
            Self::LocalPod(_) => format!(
                "a local pod needs the GPUs of node {node}, which serves local pods first: other nodes are looked for"
            ),
            Self::Priority(job) => {
                format!(
                    "ComputeJob {job}, whose priority is higher, needs the GPUs: another place is looked for"
                )
            }
        }
    }

    /// In words for the provider.
    #[must_use]
    pub fn for_provider(&self) -> String {
        match self {
            Self::WindowClosed => "no window of spec.windows is open any more".to_owned(),
            Self::LocalPod(pod) => format!("pod {pod} needs them"),
            Self::Priority(job) => format!("ComputeJob {job} of higher priority needs them"),
        }
    }
}

/// An attempt that is to give its GPUs back, or a part of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reclaim {
    /// Which.
    pub attempt: AttemptKey,
    /// What of it.
    pub part: Part,
    /// For which node's sake; empty where that does not matter.
    pub node: String,
    /// Why.
    pub why: Why,
}

impl Reclaim {
    /// What goes together here.
    #[must_use]
    pub fn key(&self) -> PartKey {
        (self.attempt, self.part.clone())
    }

    /// Whether `tenancy` goes by it.
    #[must_use]
    pub fn takes(&self, tenancy: &Tenancy) -> bool {
        self.attempt == tenancy.attempt && (self.part == Part::Whole || self.part == tenancy.part)
    }
}

/// The attempts that are to give their GPUs back and have not begun to, each once.
///
/// What leaves for one pod may change where another one finds room, when gangs leave several nodes at once. So it is gone
/// through again with those that leave until nobody else has to: what is decided does not grow while they are leaving.
#[must_use]
pub fn decide(sight: &Sight) -> Vec<Reclaim> {
    let mut reclaims = once(sight);
    let mut after = sight.clone();
    let mut news = reclaims.clone();
    while !news.is_empty() {
        for tenancy in &mut after.tenancies {
            tenancy.is_leaving |= news.iter().any(|reclaim| reclaim.takes(tenancy));
        }
        news = once(&after);
        reclaims.extend(news.iter().cloned());
    }
    reclaims
}

/// The attempts that have to go beside those that are leaving.
fn once(sight: &Sight) -> Vec<Reclaim> {
    let mut turn = Turn {
        sight,
        free: sight
            .rooms
            .iter()
            .map(|(name, room)| (name.as_str(), room.free.clone()))
            .collect(),
        coming: BTreeMap::new(),
        leaving: BTreeSet::new(),
        reclaims: Vec::new(),
    };
    for tenancy in sight.tenancies.iter().filter(|tenancy| tenancy.is_leaving) {
        turn.leaves(tenancy);
    }
    for node in &sight.closed {
        for tenancy in turn.staying_on(node) {
            turn.asks(tenancy, node, Why::WindowClosed);
        }
    }
    let mut waiting: Vec<&WaitingPod> = sight.waiting.iter().collect();
    waiting.sort_by_key(|pod| {
        (
            std::cmp::Reverse(pod.priority),
            pod.created,
            &pod.name,
            &pod.uid,
        )
    });
    for pod in waiting {
        turn.serve(pod);
    }
    turn.reclaims
}

struct Turn<'a> {
    sight: &'a Sight,
    /// What is left of each node.
    free: BTreeMap<&'a str, Resources>,
    /// What will be left of it in addition.
    coming: BTreeMap<&'a str, Resources>,
    leaving: BTreeSet<PartKey>,
    reclaims: Vec<Reclaim>,
}

impl<'a> Turn<'a> {
    fn leaves(&mut self, tenancy: &'a Tenancy) {
        if self.leaving.insert(tenancy.key()) {
            for (node, resources) in &tenancy.on {
                self.coming.entry(node).or_default().add(resources);
            }
        }
        if tenancy.part == Part::Whole {
            let parts = self.sight.tenancies.iter();
            for part in parts.filter(|other| {
                other.attempt == tenancy.attempt && matches!(other.part, Part::On(_))
            }) {
                self.leaves(part);
            }
        }
    }

    fn asks(&mut self, tenancy: &'a Tenancy, node: &str, why: Why) {
        self.leaves(tenancy);
        self.reclaims.push(Reclaim {
            attempt: tenancy.attempt,
            part: tenancy.part.clone(),
            node: node.to_owned(),
            why,
        });
    }

    fn staying_on(&self, node: &str) -> Vec<&'a Tenancy> {
        self.sight
            .tenancies
            .iter()
            .filter(|tenancy| {
                tenancy.on.contains_key(node) && !self.leaving.contains(&tenancy.key())
            })
            .collect()
    }

    fn serve(&mut self, pod: &WaitingPod) {
        let sight = self.sight;
        let suitable: Vec<(&'a str, &'a Room)> = sight
            .rooms
            .iter()
            .filter(|(_, room)| pod.could_run_on(&room.node))
            .map(|(name, room)| (name.as_str(), room))
            .collect();
        let fits = |room: &Resources| room.first_shortage(&pod.resources).is_none();
        let now = suitable
            .iter()
            .find(|(name, _)| self.free.get(name).is_some_and(fits));
        if let Some((name, _)) = now {
            self.take(name, &pod.resources);
            return;
        }
        let soon = suitable.iter().find(|(name, _)| fits(&self.soon(name)));
        if let Some((name, _)) = soon {
            self.take(name, &pod.resources);
            return;
        }
        let cleared = suitable
            .iter()
            .filter(|(_, room)| room.gives_way)
            .filter_map(|(name, _)| {
                let go = cheapest(
                    name,
                    &self.soon(name),
                    &self.staying_on(name),
                    &pod.resources,
                )?;
                Some((cost(&go), *name, go))
            })
            .min_by(|a, b| (&a.0, a.1).cmp(&(&b.0, b.1)));
        if let Some((_, name, go)) = cleared {
            for tenancy in go {
                self.asks(tenancy, name, Why::LocalPod(pod.name.clone()));
            }
            self.take(name, &pod.resources);
        }
    }

    /// What is left of the node when those have left who are on their way.
    fn soon(&self, node: &str) -> Resources {
        let mut room = self.free.get(node).cloned().unwrap_or_default();
        if let Some(coming) = self.coming.get(node) {
            room.add(coming);
        }
        room
    }

    /// A pod that waits gets so much of `node`: no other one counts on it.
    fn take(&mut self, node: &'a str, resources: &Resources) {
        let left = self.soon(node).less(resources);
        self.free.insert(node, left);
        self.coming.remove(node);
    }
}

/// What it costs that all of these go: those who were not asked before, all, what they lose; and a last word, so that the
/// choice is always the same.
type Cost = (usize, usize, u64, Vec<PartKey>);

fn cost(go: &[&Tenancy]) -> Cost {
    let mut parts: Vec<PartKey> = go.iter().map(|tenancy| tenancy.key()).collect();
    parts.sort();
    (
        go.iter().filter(|tenancy| !tenancy.was_asked).count(),
        go.len(),
        go.iter()
            .map(|tenancy| tenancy.gpu_seconds)
            .fold(0, u64::saturating_add),
        parts,
    )
}

/// Those of `staying` that have to leave `node`, of which `room` is left, for it to take `wanted`: the cheapest choice. `None`
/// if it does not suffice that all go.
fn cheapest<'a>(
    node: &str,
    room: &Resources,
    staying: &[&'a Tenancy],
    wanted: &Resources,
) -> Option<Vec<&'a Tenancy>> {
    let suffices = |go: &[&Tenancy]| {
        let mut room = room.clone();
        for resources in go.iter().filter_map(|tenancy| tenancy.on.get(node)) {
            room.add(resources);
        }
        room.first_shortage(wanted).is_none()
    };
    if !suffices(staying) {
        return None;
    }
    if staying.len() <= MOST_TRIED {
        return (1_u32..1 << staying.len())
            .map(|choice| {
                let is_chosen = |position: &usize| choice & (1 << position) != 0;
                (0..staying.len())
                    .filter(is_chosen)
                    .map(|position| staying[position])
                    .collect::<Vec<_>>()
            })
            .filter(|go| suffices(go))
            .min_by_key(|go| cost(go));
    }
    // All go, but those who need not: the most costly are spared first.
    let mut go = staying.to_vec();
    go.sort_by_key(|tenancy| cost(&[tenancy]));
    for position in (0..go.len()).rev() {
        let spared = go.remove(position);
        if !suffices(&go) {
            go.insert(position, spared);
        }
    }
    Some(go)
}

#[cfg(test)]
#[path = "decide_tests.rs"]
mod tests;
