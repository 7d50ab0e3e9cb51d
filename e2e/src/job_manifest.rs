//! Manifests of jobs for stories: a small sound job, and YAML for what is special about it.

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

/// The image of the stories' pods: a static busybox.
pub const IMAGE: &str = "localhost/busybox:1";

/// What a pod does that runs until [`Job::release`](crate::job::Job::release); SIGTERM ends it at once.
const UNTIL_RELEASED: &str =
    "trap 'exit 143' TERM; until [ -e /tmp/released ]; do sleep 0.1; done; echo released";

/// A ComputeJob as it is sent to the API server.
#[derive(Clone, Debug)]
pub struct JobManifest(Value);

/// A job of one member with `gpus` GPUs that prints its devices and ends.
#[must_use]
pub fn job(name: &str, gpus: u32) -> JobManifest {
    JobManifest(json!({
        "apiVersion": "gridstake.dev/v1alpha1",
        "kind": "ComputeJob",
        "metadata": {"name": name},
        "spec": {
            "gpu": {"count": gpus},
            "template": {"spec": {"containers": [{
                "name": "main",
                "image": IMAGE,
                "command": ["sh", "-c", "echo \"devices: $NVIDIA_VISIBLE_DEVICES\""],
            }]}},
        },
    }))
}

impl JobManifest {
    /// As JSON.
    #[must_use]
    pub fn json(&self) -> &Value {
        &self.0
    }

    /// As YAML.
    pub fn yaml(&self) -> Result<String> {
        serde_saphyr::to_string(&self.0).context("write the job as YAML")
    }

    /// The shell script that the container runs.
    #[must_use]
    pub fn script(self, script: &str) -> Self {
        self.at(
            "/spec/template/spec/containers/0/command",
            &json!(["sh", "-c", script]),
        )
    }

    /// Prints its devices and runs until it is released.
    #[must_use]
    pub fn runs_until_released(self) -> Self {
        self.script(&format!(
            "echo \"devices: $NVIDIA_VISIBLE_DEVICES\"; {UNTIL_RELEASED}"
        ))
    }

    /// Works for so many seconds and ends well.
    #[must_use]
    pub fn works_for(self, seconds: u32) -> Self {
        self.script(&format!("sleep {seconds}"))
    }

    /// A gang of this many members.
    #[must_use]
    pub fn members(self, members: u32) -> Self {
        self.at("/spec/members", &json!(members))
    }

    /// Only for this node.
    #[must_use]
    pub fn on_node(self, node: &str) -> Self {
        self.at(
            "/spec/template/spec/nodeSelector",
            &json!({"kubernetes.io/hostname": node}),
        )
    }

    /// Sets what stands at a JSON pointer, such as `/spec/timeouts`, to a value in YAML.
    pub fn with(self, pointer: &str, yaml: &str) -> Result<Self> {
        let value: Value = serde_saphyr::from_str(yaml).with_context(|| format!("read {yaml}"))?;
        Ok(self.at(pointer, &value))
    }

    fn at(mut self, pointer: &str, value: &Value) -> Self {
        set(
            &mut self.0,
            &pointer.split('/').skip(1).collect::<Vec<_>>(),
            value,
        );
        self
    }
}

/// Sets what stands at `path`; objects on the way are made. Array elements must exist.
fn set(place: &mut Value, path: &[&str], value: &Value) {
    let Some((key, rest)) = path.split_first() else {
        *place = value.clone();
        return;
    };
    if let Value::Array(elements) = place {
        if let Some(element) = key.parse().ok().and_then(|i: usize| elements.get_mut(i)) {
            set(element, rest, value);
        }
        return;
    }
    if !place.is_object() {
        *place = json!({});
    }
    set(&mut place[*key], rest, value);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pointer_leads_into_objects_that_are_made_and_arrays_that_exist() {
        let job = job("j", 2)
            .with("/spec/timeouts/start", "6s")
            .unwrap()
            .with(
                "/spec/template/spec/containers/0/env",
                "[{name: A, value: b}]",
            )
            .unwrap();
        assert_eq!(
            job.json().pointer("/spec/timeouts"),
            Some(&json!({"start": "6s"}))
        );
        assert_eq!(
            job.json()
                .pointer("/spec/template/spec/containers/0/env/0/name"),
            Some(&json!("A"))
        );
        assert_eq!(job.json().pointer("/spec/gpu/count"), Some(&json!(2)));
    }
}
