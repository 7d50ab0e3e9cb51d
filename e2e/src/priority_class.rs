//! PriorityClasses that jobs of a story name.

use anyhow::Result;
use k8s_openapi::api::scheduling::v1::PriorityClass;
use kube::{
    Api,
    api::{DeleteParams, PostParams},
};
use serde_json::json;

use crate::{tenant::Tenant, world::World};

/// Makes a PriorityClass of value 1000 and this preemption policy, which goes with the story; its name.
pub async fn priority_class(world: &World, tenant: &Tenant, policy: &str) -> Result<String> {
    let name = format!("{}-{}", tenant.namespace, policy.to_lowercase());
    let classes: Api<PriorityClass> = Api::all(world.client.clone());
    let class = serde_json::from_value(json!({
        "metadata": {"name": name}, "value": 1000, "preemptionPolicy": policy,
    }))?;
    classes.create(&PostParams::default(), &class).await?;
    let removed = name.clone();
    world.undo_at_the_end(format!("remove PriorityClass {name}"), async move {
        classes.delete(&removed, &DeleteParams::default()).await?;
        Ok(())
    });
    Ok(name)
}
