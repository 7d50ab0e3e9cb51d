//! Which devices a node has: flags for all nodes, a file for those that differ.

use std::{collections::BTreeMap, fs, path::Path};

use gridstake_simulated_gpus_state::{Driver, DriverKind, State};
use serde::Deserialize;

use crate::profiles;

/// Most GPUs of one node; more than any board has, and each has its place on the simulated PCI bus.
pub const MOST_GPUS: u32 = 64;

/// What one node has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeProfile {
    /// Number of GPUs.
    pub gpus: u32,
    /// Short name of their model, see [`profiles::MODELS`].
    pub model: String,
    /// The driver.
    pub driver: DriverKind,
}

/// The file: what differs from the flags, by the node's name. JSON is YAML too.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    nodes: BTreeMap<String, Overrides>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Overrides {
    gpus: Option<u32>,
    model: Option<String>,
    driver: Option<DriverKind>,
}

/// Why the configuration cannot be used.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum ConfigError {
    #[error("cannot read configuration file {path}")]
    Read {
        path: String,
        source: std::io::Error,
    },
    #[error(
        "cannot parse configuration file: {message}; it should look like `nodes: {{node-a: {{gpus: 8, model: h100}}}}`"
    )]
    Parse { message: String },
    #[error("unknown GPU model {model:?} for node {node}; known are {}", profiles::MODELS.join(", "))]
    Model { node: String, model: String },
    #[error("{gpus} GPUs for node {node} are more than {MOST_GPUS}")]
    Gpus { node: String, gpus: u32 },
}

/// What a node has, given the flags and the file, if there is one.
pub fn node_profile(
    node: &str,
    flags: NodeProfile,
    file: Option<&Path>,
) -> Result<NodeProfile, ConfigError> {
    let text = match file {
        None => None,
        Some(path) => Some(
            fs::read_to_string(path).map_err(|source| ConfigError::Read {
                path: path.display().to_string(),
                source,
            })?,
        ),
    };
    resolve(node, flags, text.as_deref())
}

fn resolve(node: &str, flags: NodeProfile, text: Option<&str>) -> Result<NodeProfile, ConfigError> {
    let mut file: File = match text.filter(|text| !text.trim().is_empty()) {
        None => File::default(),
        Some(text) => serde_saphyr::from_str(text).map_err(|error| ConfigError::Parse {
            message: error.to_string(),
        })?,
    };
    let own = file.nodes.remove(node).unwrap_or_default();
    let profile = NodeProfile {
        gpus: own.gpus.unwrap_or(flags.gpus),
        model: own.model.unwrap_or(flags.model),
        driver: own.driver.unwrap_or(flags.driver),
    };
    if profiles::model(&profile.model).is_none() {
        return Err(ConfigError::Model {
            node: node.into(),
            model: profile.model,
        });
    }
    if profile.gpus > MOST_GPUS {
        return Err(ConfigError::Gpus {
            node: node.into(),
            gpus: profile.gpus,
        });
    }
    Ok(profile)
}

/// The state that a node should start with: what was there before where it fits the profile, so that faults outlive
/// a restart of the plugin; otherwise new devices, which keep the faults of the old ones with the same UUID.
#[must_use]
pub fn state_for(node: &str, profile: &NodeProfile, before: Option<State>) -> State {
    let model = profiles::model(&profile.model);
    let mut devices = model.map_or_else(Vec::new, |model| {
        profiles::devices(node, &model, profile.gpus)
    });
    let Some(mut state) = before.filter(|state| state.node == node) else {
        return State::new(node, profile.driver, devices);
    };
    for device in &mut devices {
        if let Some(old) = state.devices.iter().find(|old| old.uuid == device.uuid) {
            device.faults = old.faults.clone();
            device.energy_zero_millijoules = old.energy_zero_millijoules;
            device.accounting = old.accounting;
            device.busy = old.busy;
            if old.model == device.model {
                device.mig.clone_from(&old.mig);
            }
        }
    }
    state.devices = devices;
    // The `driver` command's choice stays until the configuration asks for another one.
    if state.configured_driver != profile.driver {
        state.configured_driver = profile.driver;
        state.driver = Driver::of(profile.driver);
    }
    state
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags() -> NodeProfile {
        NodeProfile {
            gpus: 8,
            model: "h100".into(),
            driver: DriverKind::Current,
        }
    }

    #[test]
    fn a_node_without_an_entry_has_what_the_flags_say() {
        assert_eq!(
            resolve("node-z", flags(), Some("nodes: {node-a: {gpus: 2}}")).unwrap(),
            flags()
        );
        assert_eq!(resolve("node-z", flags(), Some("")).unwrap(), flags());
    }

    #[test]
    fn an_entry_overrides_only_what_it_names() {
        let yaml = "nodes:\n  node-a: {gpus: 2, driver: old}\n";
        let json = r#"{"nodes": {"node-a": {"gpus": 2, "driver": "old"}}}"#;
        for text in [yaml, json] {
            let profile = resolve("node-a", flags(), Some(text)).unwrap();
            assert_eq!(
                profile,
                NodeProfile {
                    gpus: 2,
                    driver: DriverKind::Old,
                    ..flags()
                }
            );
        }
    }

    #[test]
    fn bad_configuration_says_what_would_be_right() {
        for (text, expected) in [
            ("nodes: {node-a: {model: h999}}", "known are h100"),
            ("nodes: {node-a: {gpus: 65}}", "more than 64"),
            ("nodes: {node-a: {gpu: 1}}", "gpu"),
            ("nodes: {node-a: {driver: newest}}", "newest"),
        ] {
            let error = resolve("node-a", flags(), Some(text))
                .unwrap_err()
                .to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn faults_outlive_a_restart_and_a_change_of_the_profile() {
        let mut state = state_for("n", &flags(), None);
        state.devices[1].faults.lost = true;
        assert_eq!(state_for("n", &flags(), Some(state.clone())), state);
        let smaller = NodeProfile {
            gpus: 2,
            model: "t4".into(),
            ..flags()
        };
        let after = state_for("n", &smaller, Some(state));
        assert_eq!(after.devices.len(), 2);
        assert_eq!(after.devices[1].model.key, "t4");
        assert!(after.devices[1].faults.lost);
    }

    #[test]
    fn a_driver_chosen_by_command_stays_until_the_configuration_changes() {
        let mut state = state_for("n", &flags(), None);
        state.driver = Driver::of(DriverKind::Old);
        let state = state_for("n", &flags(), Some(state));
        assert_eq!(state.driver.kind, DriverKind::Old);
        let absent = NodeProfile {
            driver: DriverKind::Absent,
            ..flags()
        };
        assert_eq!(
            state_for("n", &absent, Some(state)).driver.kind,
            DriverKind::Absent
        );
    }
}
