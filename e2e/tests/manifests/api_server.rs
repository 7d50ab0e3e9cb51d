//! The API server that `KUBECONFIG` names, asked what it thinks of an object.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use gridstake_crds::all_crds;
use gridstake_e2e::identity::administrator_as_operator;
use k8s_openapi::{
    api::core::v1::Namespace,
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{
    Api, Client, ResourceExt as _,
    api::{DeleteParams, DynamicObject, Patch, PatchParams, PostParams, ValidationDirective},
    core::{ApiResource, Request},
    runtime::wait::{await_condition, conditions},
};
use serde_json::{Value, json};

/// How long a definition may take to be served after it was installed.
const ESTABLISHED_WITHIN: Duration = Duration::from_secs(30);

/// Objects without a namespace have fixed names, so the tests of this file take turns.
static ONE_AT_A_TIME: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// What the API server says to an object or a change.
pub enum Answer {
    /// It takes it.
    Accepted,
    /// It does not, in these words.
    Refused(String),
}

/// The API server, with a namespace of the test's own.
pub struct ApiServer {
    client: Client,
    /// Generated once: it takes a while.
    definitions: Vec<CustomResourceDefinition>,
    namespace: String,
}

impl ApiServer {
    /// Runs `story` with a namespace of its own, which is removed also when the story fails.
    pub async fn visit(name: &str, story: impl AsyncFnOnce(&Self) -> Result<()>) -> Result<()> {
        let _alone = ONE_AT_A_TIME.lock().await;
        let client = administrator_as_operator().await?;
        let definitions = all_crds();
        install(&client, &definitions).await?;
        let server = Self {
            client: client.clone(),
            definitions,
            namespace: format!("manifests-{name}-{}", std::process::id()),
        };
        let namespaces = Api::<Namespace>::all(client);
        let namespace =
            serde_json::from_value(json!({ "metadata": { "name": server.namespace } }))?;
        namespaces
            .create(&PostParams::default(), &namespace)
            .await
            .context("create a namespace")?;
        let told = story(&server).await;
        namespaces
            .delete(&server.namespace, &DeleteParams::default())
            .await
            .context("delete the namespace")?;
        told
    }

    /// Says what `documents` say: an object (with its status), or an object and what becomes of it. Nothing is left.
    pub async fn tell(&self, documents: &[Value]) -> Result<Answer> {
        match documents {
            [object] if object.get("status").is_none() => self.try_creating(object).await,
            [object] => {
                let answer = match self.create(object).await? {
                    Answer::Accepted => {
                        self.write(object, &status_patch(object), true, PatchParams::default())
                            .await?
                    }
                    refused @ Answer::Refused(_) => refused,
                };
                self.remove(object).await?;
                Ok(answer)
            }
            [before, after] => {
                let answer = self.change(before, after).await;
                self.remove(before).await?;
                answer
            }
            _ => bail!("a file holds one document, or one before and one after a change"),
        }
    }

    async fn change(&self, before: &Value, after: &Value) -> Result<Answer> {
        if let Answer::Refused(message) = self.create(before).await? {
            bail!("the first document is refused: {message}");
        }
        if before.get("status").is_some()
            && let Answer::Refused(message) = self
                .write(before, &status_patch(before), true, PatchParams::default())
                .await?
        {
            bail!("the first document's status is refused: {message}");
        }
        if before.get("status") != after.get("status") {
            return self
                .write(before, &status_patch(after), true, PatchParams::default())
                .await;
        }
        let patch = json!([{ "op": "replace", "path": "/spec", "value": after["spec"] }]);
        self.write(before, &patch, false, PatchParams::default())
            .await
    }

    /// Whether `object` would be created. Unknown fields are refused, as `kubectl` asks by default.
    pub async fn try_creating(&self, object: &Value) -> Result<Answer> {
        self.post(object, true).await
    }

    /// Creates `object`, without its status. What a run that was killed has left of it is removed first.
    pub async fn create(&self, object: &Value) -> Result<Answer> {
        self.remove(object).await?;
        self.post(object, false).await
    }

    /// Whether the object of `object`'s name, which exists, would take `object`'s status.
    pub async fn try_status(&self, object: &Value) -> Result<Answer> {
        self.write(
            object,
            &status_patch(object),
            true,
            PatchParams::default().dry_run(),
        )
        .await
    }

    /// Deletes `object`.
    pub async fn remove(&self, object: &Value) -> Result<()> {
        match self
            .api(object)?
            .delete(name(object)?, &DeleteParams::default())
            .await
        {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
            Err(error) => {
                Err(error).with_context(|| format!("delete {}", object["metadata"]["name"]))
            }
        }
    }

    async fn post(&self, object: &Value, dry_run: bool) -> Result<Answer> {
        let parameters = PostParams {
            dry_run,
            field_manager: None,
        };
        let mut request = Request::new(self.api(object)?.resource_url())
            .create(&parameters, serde_json::to_vec(object)?)?;
        let strict = format!("{}&fieldValidation=Strict", request.uri()).replace("?&", "?");
        *request.uri_mut() = strict.parse().context("form the request's address")?;
        answer(self.client.request::<DynamicObject>(request).await)
    }

    async fn write(
        &self,
        object: &Value,
        patch: &Value,
        status: bool,
        parameters: PatchParams,
    ) -> Result<Answer> {
        let parameters = parameters.validation(ValidationDirective::Strict);
        let patch = Patch::<()>::Json(serde_json::from_value(patch.clone())?);
        let api = self.api(object)?;
        answer(if status {
            api.patch_status(name(object)?, &parameters, &patch).await
        } else {
            api.patch(name(object)?, &parameters, &patch).await
        })
    }

    fn api(&self, object: &Value) -> Result<Api<DynamicObject>> {
        let kind = object["kind"].as_str().unwrap_or_default();
        let crd = self
            .definitions
            .iter()
            .find(|crd| crd.spec.names.kind == kind)
            .with_context(|| format!("{kind:?} is no kind of Gridstake"))?;
        let resource = ApiResource {
            group: crd.spec.group.clone(),
            version: crd.spec.versions[0].name.clone(),
            api_version: format!("{}/{}", crd.spec.group, crd.spec.versions[0].name),
            kind: kind.to_owned(),
            plural: crd.spec.names.plural.clone(),
        };
        Ok(if crd.spec.scope == "Namespaced" {
            Api::namespaced_with(self.client.clone(), &self.namespace, &resource)
        } else {
            Api::all_with(self.client.clone(), &resource)
        })
    }
}

/// Installs those definitions that the cluster does not have. Those that the chart has installed are left alone.
async fn install(client: &Client, wanted: &[CustomResourceDefinition]) -> Result<()> {
    let definitions = Api::<CustomResourceDefinition>::all(client.clone());
    for definition in wanted {
        let name = definition.name_any();
        if definitions.get_opt(&name).await?.is_none() {
            // Another test of this run may be faster.
            match definitions.create(&PostParams::default(), definition).await {
                Ok(_) => {}
                Err(kube::Error::Api(status)) if status.is_already_exists() => {}
                Err(error) => return Err(error).with_context(|| format!("install {name}")),
            }
        }
        let served = await_condition(definitions.clone(), &name, conditions::is_crd_established());
        tokio::time::timeout(ESTABLISHED_WITHIN, served)
            .await
            .with_context(|| {
                format!(
                    "{name} is not served {} s after it was installed",
                    ESTABLISHED_WITHIN.as_secs()
                )
            })??;
    }
    Ok(())
}

fn name(object: &Value) -> Result<&str> {
    object["metadata"]["name"]
        .as_str()
        .context("a document has no metadata.name")
}

/// The patch that makes an object's status that of `object`; without one, the status is removed.
fn status_patch(object: &Value) -> Value {
    match object.get("status") {
        Some(status) => json!([{ "op": "add", "path": "/status", "value": status }]),
        None => json!([{ "op": "remove", "path": "/status" }]),
    }
}

/// A refusal is an answer; a connection that breaks is an error.
fn answer<T>(result: kube::Result<T>) -> Result<Answer> {
    match result {
        Ok(_) => Ok(Answer::Accepted),
        Err(kube::Error::Api(status)) if status.is_invalid() || status.code == 400 => {
            Ok(Answer::Refused(status.message.clone()))
        }
        Err(error) => Err(error.into()),
    }
}
