//! What a pod template says about nodes: `nodeSelector`, required node affinity and tolerations,
//! judged as kube-scheduler does, so that a node is never chosen that it would then refuse.
//!
//! Preferences, pod affinity, topology spread and host ports are left to kube-scheduler; a pod that
//! they keep from its node is placed again after `timeouts.start`.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{
    NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, PodSpec, Taint, Toleration,
};

/// The taint that stands for a cordoned node (`spec.unschedulable`).
pub const UNSCHEDULABLE_TAINT: &str = "node.kubernetes.io/unschedulable";

/// The only node field that a `matchFields` term can name.
pub(super) const NAME_FIELD: &str = "metadata.name";

/// A pod template's hard rules about nodes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NodeConstraints {
    /// Labels that a node must carry.
    pub node_selector: BTreeMap<String, String>,
    /// `requiredDuringSchedulingIgnoredDuringExecution`.
    pub required_affinity: Option<NodeSelector>,
    /// Taints that the pod puts up with.
    pub tolerations: Vec<Toleration>,
}

impl NodeConstraints {
    /// The hard rules of a pod template.
    #[must_use]
    pub fn from_pod_spec(spec: &PodSpec) -> Self {
        Self {
            node_selector: spec.node_selector.clone().unwrap_or_default(),
            required_affinity: spec
                .affinity
                .as_ref()
                .and_then(|affinity| affinity.node_affinity.as_ref())
                .and_then(|node| {
                    node.required_during_scheduling_ignored_during_execution
                        .clone()
                }),
            tolerations: spec.tolerations.clone().unwrap_or_default(),
        }
    }

    /// Whether selector and affinity accept a node of this name and these labels.
    #[must_use]
    pub fn selects(&self, name: &str, labels: &BTreeMap<String, String>) -> bool {
        let selected = self
            .node_selector
            .iter()
            .all(|(key, value)| labels.get(key) == Some(value));
        // Terms are alternatives; a selector without terms accepts nothing.
        selected
            && self.required_affinity.as_ref().is_none_or(|affinity| {
                affinity
                    .node_selector_terms
                    .iter()
                    .any(|term| term_matches(term, name, labels))
            })
    }

    /// The first taint that keeps the pod off the node: `NoSchedule` or `NoExecute`, not tolerated.
    #[must_use]
    pub fn untolerated<'a>(&self, taints: &'a [Taint]) -> Option<&'a Taint> {
        taints
            .iter()
            .filter(|taint| matches!(taint.effect.as_str(), "NoSchedule" | "NoExecute"))
            .find(|taint| !self.tolerates(taint))
    }

    /// Whether the pod may be placed on a cordoned node.
    #[must_use]
    pub fn tolerates_cordon(&self) -> bool {
        self.tolerates(&Taint {
            key: UNSCHEDULABLE_TAINT.to_owned(),
            effect: "NoSchedule".to_owned(),
            ..Taint::default()
        })
    }

    fn tolerates(&self, taint: &Taint) -> bool {
        self.tolerations
            .iter()
            .any(|toleration| tolerates(toleration, taint))
    }
}

fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let effect = toleration.effect.as_deref().unwrap_or_default();
    let key = toleration.key.as_deref().unwrap_or_default();
    if !effect.is_empty() && effect != taint.effect {
        return false;
    }
    if !key.is_empty() && key != taint.key {
        return false;
    }
    match toleration.operator.as_deref().unwrap_or_default() {
        "Exists" => true,
        "" | "Equal" => {
            // Without a key only `Exists` means every taint.
            !key.is_empty()
                && toleration.value.as_deref().unwrap_or_default()
                    == taint.value.as_deref().unwrap_or_default()
        }
        _ => false,
    }
}

fn term_matches(term: &NodeSelectorTerm, name: &str, labels: &BTreeMap<String, String>) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    // An empty term matches no node.
    if expressions.is_empty() && fields.is_empty() {
        return false;
    }
    expressions.iter().all(|requirement| {
        requirement_matches(
            requirement,
            labels.get(&requirement.key).map(String::as_str),
        )
    }) && fields.iter().all(|requirement| {
        requirement.key == NAME_FIELD && requirement_matches(requirement, Some(name))
    })
}

/// Whether a node on which the label or field has this value meets the requirement.
pub(super) fn requirement_matches(
    requirement: &NodeSelectorRequirement,
    value: Option<&str>,
) -> bool {
    let values = requirement.values.as_deref().unwrap_or_default();
    let listed = |value: &str| values.iter().any(|candidate| candidate == value);
    match requirement.operator.as_str() {
        "In" => value.is_some_and(listed),
        // A node without the label is not in the list either.
        "NotIn" => !value.is_some_and(listed),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => compare_integers(value, values).is_some_and(|(label, bound)| label > bound),
        "Lt" => compare_integers(value, values).is_some_and(|(label, bound)| label < bound),
        // An operator of a later Kubernetes: better to wait than to place where it may be refused.
        _ => false,
    }
}

fn compare_integers(value: Option<&str>, bounds: &[String]) -> Option<(i64, i64)> {
    let [bound] = bounds else { return None };
    Some((value?.parse().ok()?, bound.parse().ok()?))
}

/// The taints among `taints` that an owner put there, as `key=value:effect`. Taints under
/// `node.kubernetes.io/` and `node.cloudprovider.kubernetes.io/` come and go with a node's state.
pub(super) fn lasting_taints(taints: &[Taint]) -> BTreeSet<String> {
    taints
        .iter()
        .filter(|taint| is_lasting(taint))
        .map(taint_text)
        .collect()
}

pub(super) fn is_lasting(taint: &Taint) -> bool {
    !["node.kubernetes.io/", "node.cloudprovider.kubernetes.io/"]
        .iter()
        .any(|prefix| taint.key.starts_with(prefix))
}

fn taint_text(taint: &Taint) -> String {
    match taint.value.as_deref() {
        None | Some("") => format!("{}:{}", taint.key, taint.effect),
        Some(value) => format!("{}={value}:{}", taint.key, taint.effect),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn constraints(spec: Value) -> NodeConstraints {
        let mut spec = spec;
        spec["containers"] = json!([]);
        NodeConstraints::from_pod_spec(&serde_json::from_value(spec).unwrap())
    }

    fn affinity(terms: &Value) -> NodeConstraints {
        constraints(json!({"affinity": {"nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}}}))
    }

    fn labels(entries: &[(&str, &str)]) -> BTreeMap<String, String> {
        entries
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect()
    }

    fn taint(key: &str, value: &str, effect: &str) -> Taint {
        Taint {
            key: key.to_owned(),
            value: (!value.is_empty()).then(|| value.to_owned()),
            effect: effect.to_owned(),
            time_added: None,
        }
    }

    #[test]
    fn a_node_selector_needs_every_label() {
        let wanted = constraints(json!({"nodeSelector": {"a": "1", "b": "2"}}));
        assert!(wanted.selects("n", &labels(&[("a", "1"), ("b", "2"), ("c", "3")])));
        assert!(!wanted.selects("n", &labels(&[("a", "1")])));
        assert!(!wanted.selects("n", &labels(&[("a", "1"), ("b", "3")])));
    }

    #[test]
    fn every_affinity_operator_means_what_kubernetes_means() {
        let node = labels(&[("zone", "a"), ("gen", "7"), ("word", "x")]);
        for (key, operator, values, expected) in [
            ("zone", "In", json!(["a", "b"]), true),
            ("zone", "In", json!(["b"]), false),
            ("none", "In", json!(["b"]), false),
            ("zone", "NotIn", json!(["b"]), true),
            ("zone", "NotIn", json!(["a"]), false),
            ("none", "NotIn", json!(["a"]), true),
            ("zone", "Exists", json!(null), true),
            ("none", "Exists", json!(null), false),
            ("none", "DoesNotExist", json!(null), true),
            ("zone", "DoesNotExist", json!(null), false),
            ("gen", "Gt", json!(["6"]), true),
            ("gen", "Gt", json!(["7"]), false),
            ("gen", "Lt", json!(["8"]), true),
            ("gen", "Lt", json!(["7"]), false),
            ("word", "Gt", json!(["1"]), false),
            ("none", "Lt", json!(["1"]), false),
            ("gen", "Gt", json!(["1", "2"]), false),
            ("zone", "Near", json!(["a"]), false),
        ] {
            let wanted = affinity(
                &json!([{"matchExpressions": [{"key": key, "operator": operator, "values": values}]}]),
            );
            assert_eq!(
                wanted.selects("n", &node),
                expected,
                "{key} {operator} {values}"
            );
        }
    }

    #[test]
    fn terms_are_alternatives_and_their_parts_conditions() {
        let node = labels(&[("a", "1"), ("b", "2")]);
        let is = |key: &str, value: &str| json!({"key": key, "operator": "In", "values": [value]});
        assert!(
            affinity(
                &json!([{"matchExpressions": [is("a", "x")]}, {"matchExpressions": [is("b", "2")]}])
            )
            .selects("n", &node)
        );
        assert!(
            !affinity(&json!([{"matchExpressions": [is("a", "1"), is("b", "x")]}]))
                .selects("n", &node)
        );
        assert!(!affinity(&json!([])).selects("n", &node));
        assert!(!affinity(&json!([{}])).selects("n", &node));
    }

    #[test]
    fn a_field_term_selects_by_node_name() {
        let wanted = |field: &str| {
            affinity(
                &json!([{"matchFields": [{"key": field, "operator": "In", "values": ["n1"]}]}]),
            )
        };
        assert!(wanted("metadata.name").selects("n1", &BTreeMap::new()));
        assert!(!wanted("metadata.name").selects("n2", &BTreeMap::new()));
        assert!(!wanted("spec.other").selects("n1", &BTreeMap::new()));
    }

    #[test]
    fn a_selector_and_an_affinity_must_both_accept() {
        let mut wanted =
            affinity(&json!([{"matchExpressions": [{"key": "a", "operator": "Exists"}]}]));
        wanted.node_selector = labels(&[("b", "2")]);
        assert!(wanted.selects("n", &labels(&[("a", "1"), ("b", "2")])));
        assert!(!wanted.selects("n", &labels(&[("a", "1")])));
        assert!(!wanted.selects("n", &labels(&[("b", "2")])));
    }

    #[test]
    fn only_hard_taints_keep_a_pod_away() {
        let nothing = NodeConstraints::default();
        assert!(
            nothing
                .untolerated(&[taint("a", "", "PreferNoSchedule")])
                .is_none()
        );
        assert!(
            nothing
                .untolerated(&[taint("a", "", "NoSchedule")])
                .is_some()
        );
        assert!(
            nothing
                .untolerated(&[taint("a", "", "NoExecute")])
                .is_some()
        );
    }

    #[test]
    fn every_toleration_means_what_kubernetes_means() {
        let gpu = taint("nvidia.com/gpu", "present", "NoSchedule");
        for (toleration, expected) in [
            (json!({"operator": "Exists"}), true),
            (json!({"key": "nvidia.com/gpu", "operator": "Exists"}), true),
            (
                json!({"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}),
                true,
            ),
            (
                json!({"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoExecute"}),
                false,
            ),
            (json!({"key": "nvidia.com/gpu", "value": "present"}), true),
            (
                json!({"key": "nvidia.com/gpu", "operator": "Equal", "value": "present"}),
                true,
            ),
            (json!({"key": "nvidia.com/gpu", "value": "absent"}), false),
            (json!({"key": "nvidia.com/gpu"}), false),
            (json!({"key": "other", "operator": "Exists"}), false),
            (json!({"operator": "Equal", "value": "present"}), false),
            (
                json!({"key": "nvidia.com/gpu", "operator": "Lt", "value": "3"}),
                false,
            ),
        ] {
            let pod = constraints(json!({"tolerations": [toleration]}));
            assert_eq!(
                pod.untolerated(std::slice::from_ref(&gpu)).is_none(),
                expected,
                "{toleration}"
            );
        }
    }

    #[test]
    fn one_untolerated_taint_of_many_is_enough() {
        let pod = constraints(json!({"tolerations": [{"key": "a", "operator": "Exists"}]}));
        let taints = [taint("a", "", "NoSchedule"), taint("b", "", "NoSchedule")];
        assert_eq!(
            pod.untolerated(&taints).map(|taint| taint.key.as_str()),
            Some("b")
        );
    }

    #[test]
    fn a_cordon_is_tolerated_only_by_name_or_by_a_toleration_of_everything() {
        assert!(!NodeConstraints::default().tolerates_cordon());
        assert!(constraints(json!({"tolerations": [{"operator": "Exists"}]})).tolerates_cordon());
        assert!(
            constraints(
                json!({"tolerations": [{"key": UNSCHEDULABLE_TAINT, "operator": "Exists"}]})
            )
            .tolerates_cordon()
        );
    }
}
