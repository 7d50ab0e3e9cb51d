//! Whether what ran on a node still does. Pure.

use k8s_openapi::{api::core::v1::Node, jiff::Timestamp};

use super::Terms;

/// A node, as far as it decides whether a pod on it can still be believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeState {
    /// Its kubelet answers.
    Ready,
    /// Its kubelet does not answer and its agent was heard of lately; until then at least nothing more is thought of it.
    NotReady {
        /// When its agent will be silent.
        until: Timestamp,
    },
    /// Neither its kubelet nor its agent answers. It is lost at `until` unless one of them does.
    Suspect {
        /// When it will be lost.
        until: Timestamp,
    },
    /// It does not answer, like too many others: that is not held against it.
    Excused,
    /// It has not answered for so long that what ran there is placed elsewhere.
    Lost,
    /// There is no such Node.
    Gone,
}

impl NodeState {
    /// Whether what ran there is to be placed elsewhere, whatever its pods say.
    #[must_use]
    pub const fn is_lost(self) -> bool {
        matches!(self, Self::Lost | Self::Gone)
    }

    /// When the answer changes by itself, if it does.
    #[must_use]
    pub const fn changes_at(self) -> Option<Timestamp> {
        match self {
            Self::NotReady { until } | Self::Suspect { until } => Some(until),
            _ => None,
        }
    }
}

/// What is seen of a Node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeSight {
    /// Whether its kubelet answers.
    pub ready: bool,
    /// When its kubelet was last heard of, as the API server has it.
    pub kubelet: Option<Timestamp>,
    /// When its agent was last heard of, on the operator's clock.
    pub agent: Option<Timestamp>,
}

impl NodeSight {
    /// Reads the condition `Ready` of `node`, whose agent was last heard of at `agent`.
    #[must_use]
    pub fn of(node: &Node, agent: Option<Timestamp>) -> Self {
        let conditions = node
            .status
            .as_ref()
            .and_then(|status| status.conditions.as_deref());
        let ready = conditions
            .unwrap_or_default()
            .iter()
            .find(|c| c.type_ == "Ready");
        Self {
            ready: ready.is_some_and(|c| c.status == "True"),
            kubelet: ready.and_then(|c| {
                let told = c
                    .last_heartbeat_time
                    .as_ref()
                    .or(c.last_transition_time.as_ref())?;
                Some(told.0)
            }),
            agent,
        }
    }
}

/// What is to be thought of a node at `now`; `None`: there is no such Node.
///
/// A kubelet that answers is enough: its pods run on though the agent is away, and what the agent cannot show later is not
/// billed. So is an agent that answers: it sees that the processes run on without their kubelet. `is_amnesty` is asked only
/// where it matters.
#[must_use]
pub fn node_state(
    sight: Option<&NodeSight>,
    terms: &Terms,
    now: Timestamp,
    is_amnesty: impl FnOnce() -> bool,
) -> NodeState {
    let Some(sight) = sight else {
        return NodeState::Gone;
    };
    if sight.ready {
        return NodeState::Ready;
    }
    // One of which nothing was ever heard was never there.
    let Some(heard) = sight.agent.max(sight.kubelet) else {
        return NodeState::Lost;
    };
    let silent = heard
        .saturating_add(terms.silent_after)
        .unwrap_or(Timestamp::MAX);
    if now < silent {
        return NodeState::NotReady { until: silent };
    }
    if is_amnesty() {
        return NodeState::Excused;
    }
    let given_up = silent.saturating_add(terms.grace).unwrap_or(Timestamp::MAX);
    if now < given_up {
        NodeState::Suspect { until: given_up }
    } else {
        NodeState::Lost
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    fn sight(ready: bool, kubelet: Option<i64>, agent: Option<i64>) -> NodeSight {
        NodeSight {
            ready,
            kubelet: kubelet.map(at),
            agent: agent.map(at),
        }
    }

    fn of(sight: NodeSight, now: i64) -> NodeState {
        node_state(Some(&sight), &Terms::default(), at(now), || false)
    }

    #[test]
    fn a_node_whose_kubelet_answers_is_there_though_its_agent_is_silent() {
        assert_eq!(of(sight(true, Some(0), None), 10_000), NodeState::Ready);
    }

    #[test]
    fn a_dead_node_is_suspect_after_three_heartbeats_and_lost_after_the_grace() {
        let dead = sight(false, Some(0), Some(0));
        for (now, expected) in [
            (29, NodeState::NotReady { until: at(30) }),
            (30, NodeState::Suspect { until: at(60) }),
            (59, NodeState::Suspect { until: at(60) }),
            (60, NodeState::Lost),
            (6000, NodeState::Lost),
        ] {
            assert_eq!(of(dead, now), expected, "{now}");
        }
    }

    #[test]
    fn a_lost_kubelet_loses_nothing_while_the_agent_answers() {
        assert_eq!(
            of(sight(false, Some(0), Some(595)), 600),
            NodeState::NotReady { until: at(625) }
        );
    }

    #[test]
    fn without_an_agent_the_kubelets_last_word_counts() {
        assert_eq!(
            of(sight(false, Some(0), None), 45),
            NodeState::Suspect { until: at(60) }
        );
        assert_eq!(of(sight(false, None, None), 45), NodeState::Lost);
        assert_eq!(
            node_state(None, &Terms::default(), at(0), || true),
            NodeState::Gone
        );
    }

    #[test]
    fn in_an_amnesty_no_silent_node_is_lost() {
        let dead = sight(false, Some(0), Some(0));
        let state = |now| node_state(Some(&dead), &Terms::default(), at(now), || true);
        assert_eq!(state(29), NodeState::NotReady { until: at(30) });
        assert_eq!(
            (state(30), state(60), state(800)),
            (NodeState::Excused, NodeState::Excused, NodeState::Excused)
        );
    }

    proptest! {
        #[test]
        fn a_node_that_stays_silent_never_becomes_less_suspect(
            agent in prop::option::of(0_i64..100), kubelet in prop::option::of(0_i64..100), a in 0_i64..200, b in 0_i64..200,
        ) {
            let rank = |state| match state {
                NodeState::Ready => 0,
                NodeState::NotReady { .. } => 1,
                NodeState::Suspect { .. } | NodeState::Excused => 2,
                NodeState::Lost | NodeState::Gone => 3,
            };
            let seen = sight(false, kubelet, agent);
            prop_assert!(rank(of(seen, a.min(b))) <= rank(of(seen, a.max(b))));
        }
    }
}
