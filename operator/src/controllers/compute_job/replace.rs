//! Members of a gang that are lost while the others run: whether they are replaced, and how that stands. Pure.
//!
//! A lost member is given up by an entry in `status.replaced`, and from then on it is none of the attempt's: its pod is stopped, no
//! longer found by its peers, and let go once its use is billed. Its rank goes to a member of a new number, for which
//! [`crate::controllers::placement`] finds a node; so what is billed for the one is never billed for the other.

use gridstake_crds::compute_job::{
    ComputeJobSpec, ComputeJobStatus, LostMember, MOST_REPLACED, MemberNode, Placement,
    REPLACED_KEPT, ReplacedMember,
};
use std::collections::{BTreeMap, BTreeSet};

use super::{conditions, retry::Consequence, usage::Books};

/// The highest number that a member may have: the names of pods stay as short as they must.
pub const HIGHEST_MEMBER: u32 = 999;
/// So many lost members are named in a message.
const NAMED: usize = 3;

/// What becomes of an attempt of which members are lost.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// It ends.
    Restart,
    /// It is not known yet by whose fault they were lost.
    Wait,
    /// The others run on.
    Replace {
        /// Who is given up.
        lost: Vec<ReplacedMember>,
        /// What that costs.
        consequence: Consequence,
    },
}

/// The placement without the members that are given up.
#[must_use]
pub fn present(status: &ComputeJobStatus, placement: &Placement) -> Placement {
    let mut present = placement.clone();
    let is_there = |node: &MemberNode| status.replaced(placement.attempt, node.member).is_none();
    present.nodes.retain(is_there);
    present
}

/// Whether the job allows for `lost`, members of the attempt in progress of a `placement` without those that were given up before,
/// to be replaced, and can pay for it with a retry. By whose fault they were lost is not looked at.
#[must_use]
pub fn is_allowed(
    spec: &ComputeJobSpec,
    status: &ComputeJobStatus,
    placement: &Placement,
    lost: &[&MemberNode],
) -> bool {
    let failures = status.failures.unwrap_or_default().infrastructure;
    failures < spec.infrastructure_retries() && may_go_on_without(spec, status, placement, lost)
}

/// The nodes without whose members, those of one node at a time, an attempt may go on.
#[must_use]
pub fn nodes_that_may_go(
    spec: &ComputeJobSpec,
    status: &ComputeJobStatus,
    placement: &Placement,
) -> BTreeSet<String> {
    let present = present(status, placement);
    let mut by_node: BTreeMap<&str, Vec<&MemberNode>> = BTreeMap::new();
    for member in &present.nodes {
        by_node.entry(&member.node).or_default().push(member);
    }
    by_node.retain(|_, members| may_go_on_without(spec, status, &present, members));
    by_node.into_keys().map(str::to_owned).collect()
}

/// Whether the job allows for `lost`, members of the attempt in progress of a `placement` without those that were given up before,
/// to be replaced. Half of a gang or more is not worth waiting for, unless it is one member.
#[must_use]
pub fn may_go_on_without(
    spec: &ComputeJobSpec,
    status: &ComputeJobStatus,
    placement: &Placement,
    lost: &[&MemberNode],
) -> bool {
    let away: BTreeSet<u32> = status
        .being_replaced()
        .map(|other| other.rank)
        .chain(lost.iter().map(|node| node.rank()))
        .collect();
    let away = u32::try_from(away.len()).unwrap_or(u32::MAX);
    let is_few = away == 1 || away.saturating_mul(2) < spec.members;
    let has_numbers = highest(status, placement).saturating_add(away) <= HIGHEST_MEMBER;
    let has_room = status.replaced.len().saturating_add(lost.len()) <= MOST_REPLACED;
    spec.lost_member() == LostMember::Replace
        && spec.members > 1
        && conditions::has_run(status)
        && !lost.is_empty()
        && is_few
        && has_numbers
        && has_room
}

/// The highest number that a member of the attempt has, or has had.
#[must_use]
pub fn highest(status: &ComputeJobStatus, placement: &Placement) -> u32 {
    let gone = status
        .replaced
        .iter()
        .filter(|lost| lost.attempt == placement.attempt)
        .map(|lost| lost.member);
    let there = placement.nodes.iter().map(|node| node.member);
    there.chain(gone).max().unwrap_or(0)
}

/// Leaves out the oldest entries that nothing depends on any more: their ranks run again and what they used is billed.
pub fn forget_old(status: &mut ComputeJobStatus, books: &Books) {
    let open: BTreeSet<(u32, u32)> = status
        .being_replaced()
        .map(|lost| (lost.attempt, lost.member))
        .collect();
    let mut surplus = status.replaced.len().saturating_sub(REPLACED_KEPT);
    status
        .replaced
        .sort_by_key(|lost| (lost.attempt, lost.member));
    status.replaced.retain(|lost| {
        let is_needed = open.contains(&(lost.attempt, lost.member))
            || (books.has(lost.attempt, lost.member)
                && !books.is_closed(lost.attempt, lost.member));
        if surplus == 0 || is_needed {
            return true;
        }
        surplus -= 1;
        false
    });
}

/// The member of `placement` that takes the place of `lost`, if it has a node already.
#[must_use]
pub fn successor<'a>(placement: &'a Placement, lost: &ReplacedMember) -> Option<&'a MemberNode> {
    let takes_over = |node: &&MemberNode| {
        let taken = node.replacement.as_ref().map(|taken| taken.member);
        placement.attempt == lost.attempt && taken == Some(lost.member)
    };
    placement.nodes.iter().find(takes_over)
}

/// What a tenant should know of the members that are being replaced; `None` where none is.
#[must_use]
pub fn words(status: &ComputeJobStatus) -> Option<String> {
    let placement = status.active_placement()?;
    let lost: Vec<&ReplacedMember> = status.being_replaced().collect();
    let one = |lost: &&ReplacedMember| {
        let next = successor(placement, lost).map_or_else(
            || "waits for another place".to_owned(),
            |node| format!("is being started on {}", node.node),
        );
        format!(
            "rank {}, lost on {} ({}), {next}",
            lost.rank, lost.node, lost.why
        )
    };
    let mut words: Vec<String> = lost.iter().take(NAMED).map(one).collect();
    if let Some(more) = lost.len().checked_sub(NAMED).filter(|more| *more > 0) {
        words.push(format!("and {more} more"));
    }
    (!words.is_empty()).then(|| format!("{}; the others run", words.join("; ")))
}

#[cfg(test)]
#[path = "replace_tests.rs"]
mod tests;
