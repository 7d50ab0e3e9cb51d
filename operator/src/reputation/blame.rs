//! Which Incidents count against which GPUs. Pure.

use std::collections::{BTreeMap, HashMap};

use gridstake_crds::{
    Incident,
    compute_job::Verdict,
    incident::{CancellationReason, IncidentState, Offence},
};
use k8s_openapi::jiff::Timestamp;

use super::{
    key::{GpuKey, Owner},
    score::{Blame, MEMORY_SECONDS},
};
use crate::chain::Chains;

/// An Incident that counts, and against whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Charge {
    /// What it weighs.
    pub blame: Blame,
    /// Who answered for the node at the time.
    owner: Owner,
    node: String,
    /// Empty: all GPUs of the node.
    devices: Vec<String>,
    /// The namespace of the job that it happened to.
    tenant: Option<String>,
}

/// What `incident` counts at `now`; `None`: nothing. Only what is laid at the host's door counts, for 30 days; what the provider
/// has won, or what was called off, does not. That there was nothing to cut excuses nobody.
#[must_use]
pub fn charge(incident: &Incident, chains: &Chains, now: Timestamp) -> Option<Charge> {
    let (spec, status) = (&incident.spec, incident.status.as_ref());
    let called_off = status.is_some_and(|status| {
        status.state == Some(IncidentState::Cancelled)
            && status.cancellation != Some(CancellationReason::NothingAtStake)
    });
    let age = now.duration_since(spec.to.0).as_secs();
    let age_seconds = u64::try_from(age).unwrap_or(0);
    if called_off || spec.verdict != Verdict::Host || age_seconds >= MEMORY_SECONDS {
        return None;
    }
    let subject = &spec.subject;
    let owner = match subject.provider_id {
        // As histories do: what was before a chain was there is not held against the provider who came with it.
        None => Owner::Nobody,
        // Where it is not known any more who that was, it is held against none.
        Some(number) => Owner::find(chains, spec.chain.as_deref(), Some(number))?,
    };
    Some(Charge {
        blame: Blame {
            offence: spec.offence,
            age_seconds,
        },
        owner,
        node: subject.node_name.clone(),
        devices: subject.devices.clone(),
        tenant: spec.job.as_ref().map(|job| job.namespace.clone()),
    })
}

/// All Incidents that count, found by what they concern.
#[derive(Clone, Debug, Default)]
pub struct Charges {
    by_device: HashMap<String, Vec<Charge>>,
    by_node: HashMap<String, Vec<Charge>>,
}

impl FromIterator<Charge> for Charges {
    fn from_iter<I: IntoIterator<Item = Charge>>(all: I) -> Self {
        let mut charges = Self::default();
        for charge in all {
            if charge.devices.is_empty() {
                let of_node = charges.by_node.entry(charge.node.clone());
                of_node.or_default().push(charge);
            } else {
                for device in &charge.devices {
                    let of_device = charges.by_device.entry(device.clone());
                    of_device.or_default().push(charge.clone());
                }
            }
        }
        charges
    }
}

impl Charges {
    /// What counts against the GPU `key`, which is shown by `node`.
    ///
    /// Of invalid results only the youngest of each tenant does: a tenant writes the program, and could write one that gives another
    /// result on the node of somebody whom it wishes to harm.
    #[must_use]
    pub fn against(&self, key: &GpuKey, node: &str) -> Vec<Blame> {
        let of_device = self.by_device.get(&key.uuid).into_iter().flatten();
        let of_node = self.by_node.get(node).into_iter().flatten();
        let mut by_tenant: BTreeMap<Option<&str>, Blame> = BTreeMap::new();
        let mut blames = Vec::new();
        for charge in of_device.chain(of_node).filter(|c| c.concerns(key, node)) {
            if charge.blame.offence == Offence::InvalidResult {
                let youngest = by_tenant
                    .entry(charge.tenant.as_deref())
                    .or_insert(charge.blame);
                youngest.age_seconds = youngest.age_seconds.min(charge.blame.age_seconds);
            } else {
                blames.push(charge.blame);
            }
        }
        blames.extend(by_tenant.into_values());
        blames
    }
}

impl Charge {
    /// Whether it counts against the GPU `key`, which is shown by `node`.
    #[must_use]
    pub fn concerns(&self, key: &GpuKey, node: &str) -> bool {
        let is_it = if self.devices.is_empty() {
            self.node == node
        } else {
            self.devices.contains(&key.uuid)
        };
        self.owner == key.owner && is_it
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::jiff::SignedDuration;
    use serde_json::{Value, json};

    use super::*;
    use crate::chain::fixtures;

    fn now() -> Timestamp {
        "2027-01-31T00:00:00Z".parse().unwrap()
    }

    fn incident(spec: &Value, status: &Value) -> Incident {
        let mut whole = json!({
            "offence": "DowntimeDuringJob", "subject": {"nodeName": "a", "providerId": 7, "devices": ["GPU-1"]},
            "from": "2027-01-30T23:00:00Z", "to": "2027-01-30T23:00:00Z", "verdict": "Host", "chain": "anvil",
            "evidenceHash": format!("0x{}", "0".repeat(64)), "summary": "s", "sanction": "Repair",
        });
        whole
            .as_object_mut()
            .unwrap()
            .extend(spec.as_object().unwrap().clone());
        serde_json::from_value(json!({
            "apiVersion": "gridstake.dev/v1alpha1", "kind": "Incident", "metadata": {"name": "i"},
            "spec": whole, "status": status,
        }))
        .unwrap()
    }

    fn chains() -> Chains {
        Chains::new(vec![fixtures::config()])
    }

    fn key(provider: u32, uuid: &str) -> GpuKey {
        let owner = Owner::find(&chains(), Some("anvil"), Some(provider)).unwrap();
        GpuKey::new(owner, uuid).unwrap()
    }

    #[test]
    fn an_incident_counts_by_its_age_unless_it_is_called_off_or_won() {
        let nothing = json!({});
        let counts = |spec: &Value, status: &Value| {
            charge(&incident(spec, status), &chains(), now()).map(|c| c.blame.age_seconds)
        };
        for (spec, status, expected) in [
            (&nothing, json!({}), Some(3600)),
            (&nothing, json!({"state": "Closed"}), Some(3600)),
            (&nothing, json!({"state": "Executed"}), Some(3600)),
            (&nothing, json!({"state": "Disputed"}), Some(3600)),
            (
                &nothing,
                json!({"state": "Cancelled", "cancellation": "NotUpheld"}),
                None,
            ),
            (
                &nothing,
                json!({"state": "Cancelled", "cancellation": "NotDecided"}),
                None,
            ),
            (
                &nothing,
                json!({"state": "Cancelled", "cancellation": "Guardian"}),
                None,
            ),
            (
                &nothing,
                json!({"state": "Cancelled", "cancellation": "Amnesty"}),
                None,
            ),
            (
                &nothing,
                json!({"state": "Cancelled", "cancellation": "NothingAtStake"}),
                Some(3600),
            ),
            (&json!({"verdict": "Ambiguous"}), json!({}), None),
            (&json!({"chain": "gone"}), json!({}), None),
            (&json!({"to": "2027-01-01T00:00:00Z"}), json!({}), None),
            (&json!({"to": "2027-02-01T00:00:00Z"}), json!({}), Some(0)),
        ] {
            assert_eq!(counts(spec, &status), expected, "{spec} {status}");
        }
    }

    #[test]
    fn it_follows_the_gpu_to_another_node_and_never_to_another_provider() {
        let found = charge(&incident(&json!({}), &json!({})), &chains(), now()).unwrap();
        assert_eq!(found.blame.offence, Offence::DowntimeDuringJob);
        assert!(found.concerns(&key(7, "GPU-1"), "a"));
        assert!(found.concerns(&key(7, "GPU-1"), "b"));
        assert!(!found.concerns(&key(8, "GPU-1"), "a"));
        assert!(!found.concerns(&key(7, "GPU-2"), "a"));
    }

    #[test]
    fn one_that_names_no_gpu_counts_against_all_of_its_node() {
        let spec = json!({"subject": {"nodeName": "a", "providerId": 7}});
        let found = charge(&incident(&spec, &json!({})), &chains(), now()).unwrap();
        assert!(found.concerns(&key(7, "GPU-1"), "a") && found.concerns(&key(7, "GPU-2"), "a"));
        assert!(!found.concerns(&key(7, "GPU-1"), "b") && !found.concerns(&key(8, "GPU-1"), "a"));
    }

    #[test]
    fn what_was_before_there_was_a_chain_is_not_held_against_the_provider_who_came_with_it() {
        let spec = json!({"subject": {"nodeName": "a", "devices": ["GPU-1"]}, "chain": null});
        let before = incident(&spec, &json!({}));
        let with = charge(&before, &chains(), now()).unwrap();
        assert!(!with.concerns(&key(7, "GPU-1"), "a"));
        let nobodys = GpuKey::new(Owner::Nobody, "GPU-1").unwrap();
        let without = charge(&before, &Chains::new(vec![]), now()).unwrap();
        assert!(without.concerns(&nobodys, "a"));
    }

    #[test]
    fn what_counts_is_found_by_gpu_and_by_node() {
        let named = incident(&json!({}), &json!({}));
        let of_node = incident(
            &json!({"subject": {"nodeName": "b", "providerId": 7}}),
            &json!({}),
        );
        let charges: Charges = [named, of_node]
            .iter()
            .filter_map(|incident| charge(incident, &chains(), now()))
            .collect();
        let against = |uuid: &str, node: &str| charges.against(&key(7, uuid), node).len();
        assert_eq!(
            (against("GPU-1", "a"), against("GPU-1", "b")),
            (1, 2),
            "the GPU has moved to a node with an incident of its own"
        );
        assert_eq!((against("GPU-2", "a"), against("GPU-2", "b")), (0, 1));
    }

    #[test]
    fn a_tenant_whose_programs_give_other_results_on_a_node_harms_it_once() {
        let result = |namespace: &str, to: &str| {
            let job = json!({"namespace": namespace, "name": "j", "uid": "u"});
            let spec = json!({"offence": "InvalidResult", "job": job, "to": to, "from": to});
            charge(&incident(&spec, &json!({})), &chains(), now()).unwrap()
        };
        let charges: Charges = [
            result("a", "2027-01-30T00:00:00Z"),
            result("a", "2027-01-30T23:00:00Z"),
            result("a", "2027-01-29T00:00:00Z"),
            result("b", "2027-01-30T12:00:00Z"),
        ]
        .into_iter()
        .collect();
        let found = charges.against(&key(7, "GPU-1"), "a");
        let ages: Vec<_> = found.iter().map(|blame| blame.age_seconds / 3600).collect();
        assert_eq!(ages, [1, 12]);
    }

    #[test]
    fn every_incident_ends_to_count() {
        let found = incident(&json!({}), &json!({"state": "InForce"}));
        let later = now() + SignedDuration::from_hours(30 * 24);
        assert_eq!(charge(&found, &chains(), later), None);
    }
}
