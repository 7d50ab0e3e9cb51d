//! Keeps the agent's part of `GpuNode/<node>` as it should be: creates the object bare where there is none, applies the
//! status when it differs, and looks every [`VERIFY_EVERY`] whether somebody deleted or altered it. In between it makes
//! no request.

use std::time::Duration;

use gridstake_crds::{
    GpuNode, GpuNodeStatus,
    gpu_node::{Device, DeviceFault},
    names::MANAGER_AGENT,
};
use kube::{
    Api, Client, Resource as _,
    api::{ApiResource, DynamicObject, Patch, PatchParams, PostParams},
};
use serde_json::json;
use tokio::{
    sync::{oneshot, watch},
    time::{Instant, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{backoff::Backoff, outcome::Outcomes, report::says_the_same, telling::Telling};

/// How often the published object is read although nothing changed.
pub const VERIFY_EVERY: Duration = Duration::from_mins(5);

/// Longer than any healthy API server takes for one small object.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// Why the status could not be published.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server refused, or could not be reached.
    #[error("{verb} GpuNode {node}")]
    Request {
        /// What was tried.
        verb: &'static str,
        /// Which object.
        node: String,
        /// Why.
        #[source]
        source: Box<kube::Error>,
    },
    /// The API server did not answer.
    #[error("{verb} GpuNode {node}: no answer in {} s", REQUEST_TIMEOUT.as_secs())]
    NoAnswer {
        /// What was tried.
        verb: &'static str,
        /// Which object.
        node: String,
    },
}

impl Error {
    fn is_not_found(&self) -> bool {
        matches!(self, Self::Request { source, .. } if matches!(source.as_ref(), kube::Error::Api(status) if status.is_not_found()))
    }

    fn is_already_exists(&self) -> bool {
        matches!(self, Self::Request { source, .. } if matches!(source.as_ref(), kube::Error::Api(status) if status.is_already_exists()))
    }
}

/// Publishes the status of one node.
pub struct Publisher {
    /// Untyped, so that an object with parts that this version does not know can still be read and written.
    api: Api<DynamicObject>,
    node: String,
    known: Known,
}

/// What is known of the object in the API server.
#[derive(Debug, Default)]
struct Known {
    /// The agent's part, as last read or answered; `None` when it must be read.
    published: Option<GpuNodeStatus>,
    /// What was applied last, with what the API server made of it. Where its schema is older than this agent they
    /// differ, and applying the same again would change nothing.
    answered: Option<(GpuNodeStatus, GpuNodeStatus)>,
    /// The faults that the API server had when it last answered.
    faults: Vec<(String, DeviceFault)>,
}

impl Known {
    fn needs(&self, wanted: &GpuNodeStatus) -> bool {
        let Some(published) = &self.published else {
            return true;
        };
        let settled = self
            .answered
            .as_ref()
            .is_some_and(|(applied, answer)| applied == wanted && says_the_same(published, answer));
        !settled && !says_the_same(published, wanted)
    }

    /// Whether the API server has all faults of `wanted`, also when something else of it could not be published.
    fn has_faults_of(&self, wanted: Option<&GpuNodeStatus>) -> bool {
        faults(wanted).all(|fault| self.faults.contains(&fault))
    }
}

/// All faults of a status, with the devices' UUIDs.
fn faults(status: Option<&GpuNodeStatus>) -> impl Iterator<Item = (String, DeviceFault)> {
    status
        .into_iter()
        .flat_map(|status| &status.devices)
        .flat_map(|device| {
            let uuid = &device.uuid;
            let faults = device.faults.iter().cloned();
            faults.map(move |fault| (uuid.clone(), fault))
        })
}

impl Publisher {
    /// A publisher of `GpuNode/<node>`.
    #[must_use]
    pub fn new(client: Client, node: &str) -> Self {
        let resource = ApiResource::erase::<GpuNode>(&());
        Self {
            api: Api::all_with(client, &resource),
            node: node.to_owned(),
            known: Known::default(),
        }
    }

    /// Publishes `wanted` whenever it changes, and says through `telling` what is published. What was published before this
    /// agent started goes to `before`.
    pub async fn run(
        mut self,
        mut wanted: watch::Receiver<Option<GpuNodeStatus>>,
        before: oneshot::Sender<Vec<Device>>,
        mut telling: Telling,
        mut outcomes: Outcomes,
        stop: CancellationToken,
    ) {
        let mut before = Some(before);
        let mut backoff = Backoff::STANDARD;
        let mut verify_at = Instant::now() + VERIFY_EVERY;
        loop {
            // In this order: what is wanted answers at least the questions that were passed on before it is read.
            let question = *telling.reported.borrow_and_update();
            let latest = wanted.borrow_and_update().clone();
            let published = self.publish(latest.as_ref(), &mut before).await;
            if published.is_ok() {
                self.known.faults = faults(latest.as_ref()).collect();
            }
            if self.known.has_faults_of(latest.as_ref()) {
                telling.told.send_replace(question);
            }
            let next = match published {
                Ok(did_ask) => {
                    // That there was nothing to ask says nothing of the API server.
                    if did_ask {
                        outcomes.success();
                    }
                    backoff.reset();
                    verify_at
                }
                Err(error) => {
                    outcomes.failure(&error);
                    Instant::now() + backoff.after_failure()
                }
            };
            tokio::select! {
                () = stop.cancelled() => return,
                changed = wanted.changed() => if changed.is_err() { return },
                Ok(()) = telling.reported.changed() => {}
                () = sleep_until(next) => {
                    self.known.published = None;
                    verify_at = Instant::now() + VERIFY_EVERY;
                }
            }
        }
    }

    /// Brings the object to `wanted`, with as few requests as it takes. True if there was one.
    ///
    /// # Errors
    /// When a request fails; then the object is read anew the next time.
    async fn publish(
        &mut self,
        wanted: Option<&GpuNodeStatus>,
        before: &mut Option<oneshot::Sender<Vec<Device>>>,
    ) -> Result<bool, Error> {
        let must_read = self.known.published.is_none();
        if must_read {
            let published = self.read_or_create().await?;
            if let Some(before) = before.take() {
                // Only a hint: nobody may be left to take it.
                let _ = before.send(published.devices.clone());
            }
            self.known.published = Some(published);
        }
        let Some(wanted) = wanted.filter(|wanted| self.known.needs(wanted)) else {
            return Ok(must_read);
        };
        // Whatever comes of the request, what is known now may be wrong after it.
        self.known.published = None;
        let mut answer = self.apply(wanted).await?;
        if shows_others(&answer, wanted) {
            answer = self.replace_devices(wanted).await?;
        }
        self.known.answered = Some((wanted.clone(), answer.clone()));
        self.known.published = Some(answer);
        tracing::info!(
            node = self.node,
            devices = wanted.devices.len(),
            "published the node's GPUs"
        );
        Ok(true)
    }

    async fn read_or_create(&self) -> Result<GpuNodeStatus, Error> {
        match self.request("read", self.api.get(&self.node)).await {
            Err(error) if error.is_not_found() => {}
            read => return read.map(|object| agents_part(&object)),
        }
        let mut bare = DynamicObject::new(&self.node, &ApiResource::erase::<GpuNode>(&()));
        bare.data = json!({ "spec": {} });
        let params = PostParams {
            field_manager: Some(MANAGER_AGENT.to_owned()),
            ..PostParams::default()
        };
        match self
            .request("create", self.api.create(&params, &bare))
            .await
        {
            Ok(_) => {
                tracing::info!(node = self.node, "created the GpuNode");
                Ok(GpuNodeStatus::default())
            }
            // Somebody was faster; whatever stands there is overwritten by the apply.
            Err(error) if error.is_already_exists() => Ok(GpuNodeStatus::default()),
            Err(error) => Err(error),
        }
    }

    async fn apply(&self, status: &GpuNodeStatus) -> Result<GpuNodeStatus, Error> {
        let body = json!({
            "apiVersion": GpuNode::api_version(&()),
            "kind": GpuNode::kind(&()),
            "metadata": { "name": self.node },
            "status": status,
        });
        let params = PatchParams::apply(MANAGER_AGENT).force();
        let patch = Patch::Apply(&body);
        let applied = self.api.patch_status(&self.node, &params, &patch);
        Ok(agents_part(
            &self.request("apply the status of", applied).await?,
        ))
    }

    /// Writes the list of devices as a whole: an apply leaves entries that another field manager has written, and a GPU that is
    /// not here would be withheld on the node where it is.
    async fn replace_devices(&self, status: &GpuNodeStatus) -> Result<GpuNodeStatus, Error> {
        let params = PatchParams {
            field_manager: Some(MANAGER_AGENT.to_owned()),
            ..PatchParams::default()
        };
        let body = json!({ "status": { "devices": status.devices } });
        let patch = Patch::Merge(&body);
        let replaced = self.api.patch_status(&self.node, &params, &patch);
        Ok(agents_part(
            &self.request("replace the devices of", replaced).await?,
        ))
    }

    async fn request<T>(
        &self,
        verb: &'static str,
        request: impl Future<Output = kube::Result<T>>,
    ) -> Result<T, Error> {
        match timeout(REQUEST_TIMEOUT, request).await {
            Ok(answer) => answer.map_err(|source| Error::Request {
                verb,
                node: self.node.clone(),
                source: Box::new(source),
            }),
            Err(_) => Err(Error::NoAnswer {
                verb,
                node: self.node.clone(),
            }),
        }
    }
}

/// Whether `published` shows a device that is not among the `wanted` ones.
fn shows_others(published: &GpuNodeStatus, wanted: &GpuNodeStatus) -> bool {
    let is_wanted = |device: &Device| wanted.devices.iter().any(|own| own.uuid == device.uuid);
    !published.devices.iter().all(is_wanted)
}

/// The agent's part of a stored object. What cannot be read is as good as absent: it is written anew.
fn agents_part(object: &DynamicObject) -> GpuNodeStatus {
    let mut part = serde_json::Map::new();
    for key in ["devices", "driver", "agent"] {
        if let Some(value) = object.data.get("status").and_then(|status| status.get(key)) {
            part.insert(key.to_owned(), value.clone());
        }
    }
    serde_json::from_value(part.into()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use gridstake_crds::gpu_node::{Agent, AgentState};

    use super::*;

    fn status(version: &str) -> GpuNodeStatus {
        GpuNodeStatus {
            agent: Some(Agent {
                version: version.to_owned(),
                state: AgentState::Ok,
                message: None,
                key: None,
            }),
            ..GpuNodeStatus::default()
        }
    }

    fn object(status: &serde_json::Value) -> DynamicObject {
        let mut object = DynamicObject::new("a", &ApiResource::erase::<GpuNode>(&()));
        object.data = json!({ "spec": {}, "status": status });
        object
    }

    #[test]
    fn what_is_published_already_is_not_written_again() {
        let known = Known {
            published: Some(status("1")),
            ..Known::default()
        };
        assert!(!known.needs(&status("1")));
        assert!(known.needs(&status("2")));
    }

    #[test]
    fn an_object_that_was_not_read_is_written() {
        assert!(Known::default().needs(&status("1")));
    }

    #[test]
    fn what_the_api_server_drops_is_not_sent_for_ever() {
        let known = Known {
            published: Some(GpuNodeStatus::default()),
            answered: Some((status("1"), GpuNodeStatus::default())),
            ..Known::default()
        };
        assert!(!known.needs(&status("1")));
        assert!(known.needs(&status("2")));
        let altered = Known {
            published: Some(status("x")),
            ..known
        };
        assert!(
            altered.needs(&status("1")),
            "somebody wrote into the agent's part"
        );
    }

    #[test]
    fn only_the_agents_part_of_an_object_is_read() {
        let read = agents_part(&object(&json!({
            "agent": { "version": "1", "state": "Ok" },
            "free": 3,
            "offer": { "state": "not known here" },
        })));
        assert_eq!(read, status("1"));
    }

    #[test]
    fn a_part_that_cannot_be_read_is_written_anew() {
        let read = agents_part(&object(
            &json!({ "agent": { "version": "9", "state": "Transcendent" } }),
        ));
        assert_eq!(read, GpuNodeStatus::default());
        assert_eq!(agents_part(&object(&json!(null))), GpuNodeStatus::default());
    }
}
