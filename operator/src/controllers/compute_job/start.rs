//! What keeps an attempt from starting, in the words of whoever keeps it waiting. Pure.

use gridstake_crds::compute_job::{AttemptEndReason, ComputeJobReason};

use super::{
    member::{End, Member, StartTrouble, State},
    words,
};

/// Why members have not started in time. The tenant is charged only for what the kubelet lays at its door.
#[must_use]
pub fn why_not_started(members: &[Member]) -> End {
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
        let hint = words::image_pull(&message);
        return End::of(AttemptEndReason::ImagePullFailed)
            .saying(message)
            .hinting(hint);
    }
    if let Some(message) = find(|s| {
        if let State::Starting(StartTrouble::Container, m) = s {
            Some(m)
        } else {
            None
        }
    }) {
        let hint = words::container_start(&message);
        return End::of(AttemptEndReason::ContainerStartFailed)
            .saying(message)
            .hinting(hint);
    }
    if let Some(message) = find(|s| {
        if let State::Unbound(m) = s {
            Some(m)
        } else {
            None
        }
    }) {
        return End::of(AttemptEndReason::PlacementLost).saying(message);
    }
    End::of(AttemptEndReason::StartTimeout)
}

/// What an attempt that has not started waits for, in the words of whoever keeps it waiting.
#[must_use]
pub fn what_it_waits_for(members: &[Member]) -> (ComputeJobReason, String) {
    let held = members.iter().find_map(|m| match &m.state {
        State::Held(gates) => Some(gates),
        _ => None,
    });
    if let Some(gates) = held {
        let message = format!(
            "a pod carries a scheduling gate that is not Gridstake's ({gates}): whoever put it there has to lift it"
        );
        return (ComputeJobReason::WaitingForGate, message);
    }
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
