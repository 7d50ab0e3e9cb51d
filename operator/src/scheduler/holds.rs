//! Room that is kept for the first job that waits: a reservation in time, so that smaller jobs behind it fill what is
//! free without ever delaying it (conservative for the head of the queue, as in EASY backfilling).
//!
//! # The head
//! The head is the first job in the queue's order that does not fit now and would fit when running attempts end. There
//! is one at a time. A job that comes before it in the order (a higher priority, or a payer who has used less) is not
//! bound by the hold, and if it does not fit either, it is the head from then on.
//!
//! # When and where
//! Each attempt ends by a known moment: it starts by `timeouts.start`, runs for `timeouts.run` at most, and is gone
//! after its grace. Without `timeouts.run` that moment is unknown. The **earliest sure start** is the first moment by
//! which, if every attempt takes all the time that it may, the head's members all find room on nodes that the filters
//! accept; unknown if that takes an attempt whose end is unknown. Pods that are not jobs' are taken to stay for ever.
//!
//! Of the places that are free by then, those are kept for which the fewest attempts must end; among these the ones that
//! are free first; then by the order of nodes. Attempts usually end before they must, so each one less to wait for is a
//! chance to start earlier; and a place that is free already is not given away, since it would have to come back. Where
//! members must be close, one domain is kept, chosen in the same way.
//!
//! # Who may use it
//! A job behind the head may use what is kept if it is sure to end by the earliest sure start, or if what it takes is
//! not needed then (the **spare** room of a kept node). So the head's places stay sufficient at that moment, whatever
//! is placed: the earliest sure start, computed anew, is never later. The head starts by then, as long as attempts end
//! when they must and nodes stay as they are.
//!
//! # The bound on waiting
//! Let B be the longest time from a placement to its sure end of all jobs. While nobody comes before them, the first
//! n jobs in the order all start within n · B: the first one is the head, and starts within B, when all that ran has
//! ended; then the next one is.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use gridstake_crds::compute_job::TopologyPolicy;

use super::filter::{self, Rejection};
use super::pod_facts::MemberKey;
use super::request::Request;
use super::resources::Resources;
use super::snapshot::{NodeCapacity, Snapshot};

/// A moment, in milliseconds since 1970; of two the lesser is earlier.
pub type Millis = i64;

/// What a member of a running attempt will give back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Release {
    /// Whose it is.
    pub member: MemberKey,
    /// The node.
    pub node: String,
    /// What it takes there.
    pub resources: Resources,
    /// By when it has ended for sure. `None`: nobody knows.
    pub ends_by: Option<Millis>,
}

/// What others may take of nodes that are kept for the head, by the node's name.
pub type Spare = Arc<BTreeMap<String, Resources>>;

/// The room that is kept for the head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hold {
    /// By when the head starts for sure. `None`: nobody knows.
    pub starts_by: Option<Millis>,
    /// How many of its members each node is kept for.
    pub members: BTreeMap<String, u64>,
    /// How many attempts' members it waits for.
    pub waits_for: usize,
    spare: Spare,
}

impl Hold {
    /// What a job that has ended by `ends_by` for sure may take of the kept nodes; nothing is named for it where it may
    /// take all that is free.
    #[must_use]
    pub fn spare_for(&self, ends_by: Option<Millis>) -> Spare {
        if self.is_over_by_then(ends_by) {
            Spare::default()
        } else {
            Arc::clone(&self.spare)
        }
    }

    /// Notes that a job that has ended by `ends_by` for sure was given `each` on every one of `nodes`.
    pub fn note(&mut self, nodes: &[String], each: &Resources, ends_by: Option<Millis>) {
        if self.is_over_by_then(ends_by) {
            return;
        }
        for node in nodes {
            if let Some(spare) = Arc::make_mut(&mut self.spare).get_mut(node) {
                *spare = spare.less(each);
            }
        }
    }

    fn is_over_by_then(&self, ends_by: Option<Millis>) -> bool {
        self.starts_by
            .zip(ends_by)
            .is_some_and(|(start, end)| end <= start)
    }
}

/// A place for one member of the head.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    /// How many members of attempts on the node must end first.
    waits: usize,
    /// By when they have.
    ready: Ready,
    /// The node's position in the snapshot.
    node: usize,
    /// Which of the node's places.
    number: u64,
}

/// A moment that may be unknown; what is unknown is later than everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Ready {
    Now,
    By(Millis),
    Unknown,
}

/// A node on which the head could start now or later.
struct Host<'a> {
    node: &'a NodeCapacity,
    domain: Option<&'a str>,
    releases: Vec<&'a Release>,
    /// The last moment at which the head may start there; `None`: any.
    closes: Option<Millis>,
    places: Vec<Place>,
}

impl Host<'_> {
    /// Whether the head may start there at `moment`.
    fn is_open(&self, moment: Ready) -> bool {
        match (self.closes, moment) {
            (None, _) | (Some(_), Ready::Now) => true,
            (Some(closes), Ready::By(at)) => at <= closes,
            (Some(_), Ready::Unknown) => false,
        }
    }

    /// What is free at `moment` for sure.
    fn free_at(&self, moment: Ready) -> Resources {
        let mut taken = taken(self.node);
        for release in &self.releases {
            if ready(release) <= moment {
                taken = taken.less(&release.resources);
            }
        }
        self.node.facts().capacity().less(&taken)
    }
}

/// What is to be kept for `request`, which does not fit on `snapshot` at `now`; `running` are the members of all
/// attempts on it. `None` if it would not fit even if all of them had ended: then nothing is kept, since nobody can say
/// that it would help.
#[must_use]
pub fn hold(
    snapshot: &Snapshot,
    request: &Request,
    running: &[Release],
    now: Millis,
) -> Option<Hold> {
    let member = request.per_member();
    let hosts = hosts(snapshot, request, &member, running, now);
    let moment = earliest(&hosts, request)?;
    let chosen = cheapest(&hosts, request, moment)?;

    let mut kept: BTreeMap<usize, u64> = BTreeMap::new();
    for place in &chosen {
        *kept.entry(place.node).or_default() += 1;
    }
    let mut hold = Hold {
        starts_by: match moment {
            Ready::Now => Some(now),
            Ready::By(at) => Some(at.max(now)),
            Ready::Unknown => None,
        },
        members: BTreeMap::new(),
        waits_for: 0,
        spare: Spare::default(),
    };
    let mut spare = BTreeMap::new();
    for (position, count) in kept {
        let host = hosts.get(&position)?;
        let mut left = host.free_at(moment);
        for _ in 0..count {
            left = left.less(&member);
        }
        let name = &host.node.facts().name;
        let last = chosen.iter().filter(|place| place.node == position).max();
        hold.waits_for += last.map_or(0, |place| place.waits);
        hold.members.insert(name.clone(), count);
        spare.insert(name.clone(), left);
    }
    hold.spare = Arc::new(spare);
    Some(hold)
}

/// Every node that could take a member once enough has ended, by its position.
fn hosts<'a>(
    snapshot: &'a Snapshot,
    request: &Request,
    member: &Resources,
    running: &'a [Release],
    now: Millis,
) -> BTreeMap<usize, Host<'a>> {
    let mut by_node: BTreeMap<&str, Vec<&Release>> = BTreeMap::new();
    for release in running {
        by_node.entry(&release.node).or_default().push(release);
    }
    let mut hosts = BTreeMap::new();
    for (position, node) in snapshot.nodes().iter().enumerate() {
        let facts = node.facts();
        if !lacks_only_room(filter::first_rejection(node, request, member).as_ref())
            || facts.capacity().holds(member) == 0
        {
            continue;
        }
        let mut releases = by_node.remove(facts.name.as_str()).unwrap_or_default();
        releases.sort_by_key(|release| (ready(release), release.member));
        let places = places(node, position, request, member, &releases);
        let topology = request.topology.as_ref();
        let limit = request.run_limit.map_or(0, |limit| {
            Millis::try_from(limit.as_millis()).unwrap_or(Millis::MAX)
        });
        let closes = facts.closes_in.map(|left| {
            let left = Millis::try_from(left.as_millis()).unwrap_or(Millis::MAX);
            now.saturating_add(left).saturating_sub(limit)
        });
        let host = Host {
            node,
            domain: topology
                .and_then(|topology| facts.labels.get(&topology.key).map(String::as_str)),
            releases,
            closes,
            places,
        };
        hosts.insert(position, host);
    }
    hosts
}

/// Whether a node accepts the request, or would if others left.
fn lacks_only_room(rejection: Option<&Rejection>) -> bool {
    rejection.is_none_or(Rejection::is_want_of_room)
}

/// The places for members on `node`, at most as many as there are members.
fn places(
    node: &NodeCapacity,
    position: usize,
    request: &Request,
    member: &Resources,
    releases: &[&Release],
) -> Vec<Place> {
    let most = u64::from(request.member_count());
    let capacity = node.facts().capacity();
    let mut taken = taken(node);
    let mut places = Vec::new();
    let mut found = 0;
    let steps = releases.iter().map(Some);
    for (waits, release) in std::iter::once(None).chain(steps).enumerate() {
        if let Some(release) = release {
            taken = taken.less(&release.resources);
        }
        let room = capacity.less(&taken).holds(member).min(most);
        let ready = release.map_or(Ready::Now, |release| ready(release));
        for number in found..room {
            places.push(Place {
                waits,
                ready,
                node: position,
                number,
            });
        }
        found = found.max(room);
    }
    places
}

/// The first moment at which there are places for all members.
fn earliest(hosts: &BTreeMap<usize, Host<'_>>, request: &Request) -> Option<Ready> {
    let moments: BTreeSet<Ready> = hosts
        .values()
        .flat_map(|host| host.places.iter().map(|place| place.ready))
        .collect();
    let mut arriving: Vec<(Ready, usize)> = hosts
        .iter()
        .flat_map(|(position, host)| host.places.iter().map(|place| (place.ready, *position)))
        .collect();
    arriving.sort_unstable();
    let mut closing: Vec<(Millis, usize)> = hosts
        .iter()
        .filter_map(|(position, host)| Some((host.closes?, *position)))
        .collect();
    closing.sort_unstable();
    let mut arriving = arriving.into_iter().peekable();
    let mut closing = closing.into_iter().peekable();

    let close = filter::required_topology_key(request).is_some();
    let members = u64::from(request.member_count());
    // With a required topology by domain, else all in one.
    let mut open: BTreeMap<Option<&str>, u64> = BTreeMap::new();
    let mut on_node: BTreeMap<usize, u64> = BTreeMap::new();
    let mut closed: BTreeSet<usize> = BTreeSet::new();
    for moment in moments {
        while let Some((_, position)) = closing.next_if(|(closes, _)| match moment {
            Ready::Now => false,
            Ready::By(at) => *closes < at,
            Ready::Unknown => true,
        }) {
            closed.insert(position);
            let lost = on_node.remove(&position).unwrap_or(0);
            let domain = hosts.get(&position).and_then(|host| host.domain);
            if let Some(count) = open.get_mut(&domain.filter(|_| close)) {
                *count = count.saturating_sub(lost);
            }
        }
        while let Some((_, position)) = arriving.next_if(|(ready, _)| *ready <= moment) {
            if !closed.contains(&position) {
                let domain = hosts.get(&position).and_then(|host| host.domain);
                *open.entry(domain.filter(|_| close)).or_default() += 1;
                *on_node.entry(position).or_default() += 1;
            }
        }
        if open.values().any(|count| *count >= members) {
            return Some(moment);
        }
    }
    None
}

/// Of the places that are free at `moment`, those that cost the least waiting, one for each member.
fn cheapest(
    hosts: &BTreeMap<usize, Host<'_>>,
    request: &Request,
    moment: Ready,
) -> Option<Vec<Place>> {
    let members = usize::try_from(request.member_count()).unwrap_or(usize::MAX);
    let mut free: Vec<(Option<&str>, Place)> = Vec::new();
    for host in hosts.values().filter(|host| host.is_open(moment)) {
        let by_then = host.places.iter().filter(|place| place.ready <= moment);
        free.extend(by_then.map(|place| (host.domain, *place)));
    }
    let mut by_domain: BTreeMap<&str, Vec<Place>> = BTreeMap::new();
    for (domain, place) in &free {
        if let Some(domain) = domain {
            by_domain.entry(domain).or_default().push(*place);
        }
    }
    let best = |mut places: Vec<Place>| {
        places.sort_unstable();
        places.truncate(members);
        (places.len() == members).then_some(places)
    };
    let policy = request.topology.as_ref().map(|topology| topology.policy);
    let close = || {
        by_domain
            .iter()
            .filter_map(|(domain, places)| Some((*domain, best(places.clone())?)))
            .min_by_key(|(domain, places)| {
                (
                    places.iter().map(|place| place.waits).sum::<usize>(),
                    *domain,
                )
            })
            .map(|(_, places)| places)
    };
    let anywhere = || best(free.iter().map(|(_, place)| *place).collect());
    match policy {
        None => anywhere(),
        Some(TopologyPolicy::Required) => close(),
        Some(TopologyPolicy::Preferred) => close().or_else(anywhere),
    }
}

fn ready(release: &Release) -> Ready {
    release.ends_by.map_or(Ready::Unknown, Ready::By)
}

/// What pods and promises take of a node.
fn taken(node: &NodeCapacity) -> Resources {
    let mut taken = node.used().clone();
    taken.add(node.reserved());
    taken
}

#[cfg(test)]
mod tests;
