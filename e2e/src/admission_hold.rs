//! Holds a moment still: a ValidatingAdmissionPolicy that refuses one kind of request in one namespace, or on batches.
//!
//! Placement, creation of pods, lifting of gates and binding follow each other within milliseconds. A story about what
//! happens in between makes the API server refuse the next step, does its mischief, and lets it pass again.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use k8s_openapi::api::{
    admissionregistration::v1::{ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding},
    core::v1::ConfigMap,
};
use kube::{
    Api, Client,
    api::{DeleteParams, ListParams, ObjectMeta, PostParams},
};
use serde_json::json;

use crate::{
    tenant::Tenant,
    wait::{Look, look_until},
    world::World,
};

/// On the policies of stories.
const LABEL: &str = "gridstake.dev/e2e-hold";

/// The step that is refused.
#[derive(Clone, Copy, Debug)]
pub enum Step<'a> {
    /// Creating the pods of the job of this name; dry runs pass.
    CreatePodsOf(&'a str),
    /// Lifting the scheduling gate of the pods of the job of this name.
    LiftGatesOf(&'a str),
    /// Binding any pod to a node.
    Bind,
    /// Storing a signature of the lane's signer in any SettlementBatch.
    StoreAuthorization,
    /// Storing a transaction in any SettlementBatch, without which none is sent.
    StoreTransaction,
}

/// What requests a step makes.
struct Request {
    group: &'static str,
    version: &'static str,
    resource: &'static str,
    operation: &'static str,
    /// Which of them are refused, in CEL.
    refused: String,
}

impl Step<'_> {
    fn request(self) -> Request {
        let of = |job: &str| {
            format!("object.metadata.?labels[?'gridstake.dev/job'].orValue('') == '{job}'")
        };
        let of_pods = |resource, operation, refused| Request {
            group: "",
            version: "v1",
            resource,
            operation,
            refused,
        };
        let of_batches = |list: &str| {
            let size = |object: &str| format!("{object}.?status.?{list}.orValue([]).size()");
            Request {
                group: "gridstake.dev",
                version: "v1alpha1",
                resource: "settlementbatches/status",
                operation: "UPDATE",
                refused: format!("{} > {}", size("object"), size("oldObject")),
            }
        };
        match self {
            Self::CreatePodsOf(job) => of_pods(
                "pods",
                "CREATE",
                format!("!request.?dryRun.orValue(false) && {}", of(job)),
            ),
            Self::LiftGatesOf(job) => of_pods(
                "pods",
                "UPDATE",
                format!(
                    "oldObject.spec.?schedulingGates.orValue([]).size() > 0 && object.spec.?schedulingGates.orValue([]).size() == 0 && {}",
                    of(job)
                ),
            ),
            Self::Bind => of_pods("pods/binding", "CREATE", "true".into()),
            Self::StoreAuthorization => of_batches("authorizations"),
            Self::StoreTransaction => of_batches("attempts"),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::CreatePodsOf(_) => "create-pods",
            Self::LiftGatesOf(_) => "lift-gates",
            Self::Bind => "bind",
            Self::StoreAuthorization => "store-authorization",
            Self::StoreTransaction => "store-transaction",
        }
    }
}

/// A step that is refused, until it is let pass.
pub struct Hold {
    client: Client,
    name: String,
    probes: Api<ConfigMap>,
}

impl Hold {
    /// Has `step` refused (of pods: in the tenant's namespace), and waits until it is. At the story's end it passes again in any case.
    pub async fn begin(world: &World, tenant: &Tenant, step: Step<'_>) -> Result<Self> {
        let name = format!("{}-{}", tenant.namespace, step.name());
        let hold = Self {
            client: world.client.clone(),
            name: name.clone(),
            probes: tenant.api(),
        };
        let client = world.client.clone();
        world.undo_at_the_end(format!("let pass {step:?}"), async move {
            remove(&client, &name).await
        });
        let (policy, binding) = hold.objects(&tenant.namespace, step)?;
        Api::all(world.client.clone())
            .create(&PostParams::default(), &policy)
            .await
            .context("create the policy of a hold")?;
        Api::all(world.client.clone())
            .create(&PostParams::default(), &binding)
            .await
            .context("bind the policy of a hold")?;
        hold.until(true).await?;
        Ok(hold)
    }

    /// Lets the step pass again, and waits until it does.
    pub async fn end(self) -> Result<()> {
        remove(&self.client, &self.name).await?;
        self.until(false).await
    }

    fn objects(
        &self,
        namespace: &str,
        step: Step<'_>,
    ) -> Result<(ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding)> {
        let request = step.request();
        let rule = |group: &str, version: &str, resource: &str, operation: &str| json!({"apiGroups": [group], "apiVersions": [version], "resources": [resource], "operations": [operation]});
        let metadata = json!({"name": self.name, "labels": {LABEL: "true"}});
        let policy = json!({
            "metadata": metadata,
            "spec": {
                "failurePolicy": "Fail",
                "matchConstraints": {
                    // Of no effect on what is in no namespace.
                    "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
                    // The policy also refuses a ConfigMap, by which a story sees whether it is in force.
                    "resourceRules": [rule(request.group, request.version, request.resource, request.operation), rule("", "v1", "configmaps", "CREATE")],
                },
                "validations": [{
                    "expression": format!("request.resource.resource == 'configmaps' ? object.metadata.name != '{}' : !({})", self.name, request.refused),
                    "message": "held still by a story of the end-to-end tests",
                    "reason": "Forbidden",
                }],
            },
        });
        let binding = json!({"metadata": metadata, "spec": {"policyName": self.name, "validationActions": ["Deny"]}});
        Ok((
            serde_json::from_value(policy)?,
            serde_json::from_value(binding)?,
        ))
    }

    async fn until(&self, held: bool) -> Result<()> {
        let probe = ConfigMap {
            metadata: ObjectMeta {
                name: Some(self.name.clone()),
                ..ObjectMeta::default()
            },
            data: Some(BTreeMap::new()),
            ..ConfigMap::default()
        };
        let dry_run = PostParams {
            dry_run: true,
            ..PostParams::default()
        };
        look_until(
            &format!(
                "the step {} is {}",
                self.name,
                if held { "refused" } else { "let pass" }
            ),
            || async {
                let refused = match self.probes.create(&dry_run, &probe).await {
                    Ok(_) => false,
                    Err(kube::Error::Api(status)) if status.is_forbidden() => true,
                    Err(error) => return Err(error.into()),
                };
                Ok(Look::whether(refused == held, || {
                    format!("refused: {refused}")
                }))
            },
        )
        .await
    }
}

/// Removes the holds that a killed story has left.
pub async fn remove_all(client: &Client) -> Result<()> {
    let ours = ListParams::default().labels(LABEL);
    Api::<ValidatingAdmissionPolicyBinding>::all(client.clone())
        .delete_collection(&DeleteParams::default(), &ours)
        .await?;
    Api::<ValidatingAdmissionPolicy>::all(client.clone())
        .delete_collection(&DeleteParams::default(), &ours)
        .await?;
    Ok(())
}

async fn remove(client: &Client, name: &str) -> Result<()> {
    let bindings = Api::<ValidatingAdmissionPolicyBinding>::all(client.clone());
    let policies = Api::<ValidatingAdmissionPolicy>::all(client.clone());
    for result in [
        bindings
            .delete(name, &DeleteParams::default())
            .await
            .map(drop),
        policies
            .delete(name, &DeleteParams::default())
            .await
            .map(drop),
    ] {
        match result {
            Err(kube::Error::Api(status)) if status.is_not_found() => {}
            result => result.with_context(|| format!("remove the hold {name}"))?,
        }
    }
    Ok(())
}
