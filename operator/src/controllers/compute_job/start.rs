//! What keeps an attempt from starting, in the words of whoever keeps it waiting. Pure.

use gridstake_crds::compute_job::{AttemptEndReason, ComputeJobReason, VerdictReason};

use super::{
    member::{Member, StartTrouble, State},
    words,
};

/// Why members have not started in time. The tenant is charged only for what the kubelet lays at its door.
#[must_use]
pub fn why_not_started(members: &[Member]) -> (AttemptEndReason, Option<VerdictReason>, String) {
    let find = |wanted: fn(&State) -> Option<&String>| {
        members.iter().find_map(|m| wanted(&m.state)).cloned()
    };
    if let Some(message) = find(|s| {
        if let State::Starting(StartTrouble::Image, m) = s {
            Some(m)
        } else {
            None
        }
    }) {
        return (
            AttemptEndReason::ImagePullFailed,
            words::image_pull(&message),
            message,
        );
    }
    if let Some(message) = find(|s| {
        if let State::Starting(StartTrouble::Container, m) = s {
            Some(m)
        } else {
            None
        }
    }) {
        return (
            AttemptEndReason::ContainerStartFailed,
            words::container_start(&message),
            message,
        );
    }
    if let Some(message) = find(|s| {
        if let State::Unbound(m) = s {
            Some(m)
        } else {
            None
        }
    }) {
        return (AttemptEndReason::PlacementLost, None, message);
    }
    (AttemptEndReason::StartTimeout, None, String::new())
}

/// What an attempt that has not started waits for, in the words of whoever keeps it waiting.
#[must_use]
pub fn what_it_waits_for(members: &[Member]) -> (ComputeJobReason, String) {
    let mut states = members.iter().map(|m| &m.state);
    let first = states
        .clone()
        .find(|s| matches!(s, State::Starting(trouble, _) if *trouble != StartTrouble::None));
    match first.or_else(|| states.find(|s| matches!(s, State::Unbound(_)))) {
        Some(State::Starting(StartTrouble::Image, message)) => {
            (ComputeJobReason::WaitingForImage, message.clone())
        }
        Some(State::Unbound(message)) if !message.is_empty() => {
            (ComputeJobReason::WaitingForBinding, message.clone())
        }
        Some(State::Starting(_, message)) => (ComputeJobReason::Starting, message.clone()),
        _ => (ComputeJobReason::Starting, String::new()),
    }
}
