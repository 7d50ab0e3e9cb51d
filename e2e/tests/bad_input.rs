//! What bad input gets: each row of the table in `docs` and of the issue that asked for it.

use gridstake_e2e::prelude::*;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{
    Api, ResourceExt as _,
    api::{DynamicObject, PostParams},
};
use serde_json::{Value, json};

#[test]
fn an_unknown_gpu_model_is_unsatisfiable_and_the_models_on_offer_are_listed() -> Result<()> {
    story(async |world, tenant| {
        let wrong = tenant
            .submit(&job("wrong", 1).with("/spec/gpu/models", "[H1000]")?)
            .await?;
        let message = wrong
            .until_condition(
                ComputeJobCondition::Admitted,
                false,
                ComputeJobReason::Unsatisfiable,
            )
            .await?;
        ensure!(
            message.contains("no node offers GPU model H1000"),
            "it says {message:?}"
        );
        for host in &world.hosts {
            for model in world
                .gpu_nodes()
                .get(&host.name)
                .await?
                .status
                .context("status")?
                .models()
                .keys()
            {
                ensure!(message.contains(model), "{message:?} does not list {model}");
            }
        }
        Ok(())
    })
}

#[test]
fn a_price_that_is_no_amount_is_refused_with_an_example() -> Result<()> {
    story(async |_, tenant| {
        for price in ["0.0000000001", "-1", "1e-3", "1,5", ""] {
            let manifest = job("priced", 1)
                .with("/spec/pricing", &format!("{{maxPerGpuSecond: '{price}'}}"))?;
            let object: DynamicObject = serde_json::from_value(manifest.json().clone())?;
            match tenant
                .raw_jobs()
                .create(
                    &PostParams {
                        dry_run: true,
                        ..PostParams::default()
                    },
                    &object,
                )
                .await
            {
                Err(kube::Error::Api(status)) if status.is_invalid() => {
                    let message = status.message;
                    ensure!(
                        message.contains("spec.pricing.maxPerGpuSecond"),
                        "{price:?}: the field is not named in {message:?}"
                    );
                    ensure!(
                        message.contains("0.00072"),
                        "{price:?}: there is no example in {message:?}"
                    );
                }
                answer => bail!("{price:?}: not refused as invalid, but {answer:?}"),
            }
        }
        Ok(())
    })
}

#[test]
fn a_template_that_asks_for_what_tenants_may_not_have_is_not_validated_and_the_path_is_named()
-> Result<()> {
    let container = "/spec/template/spec/containers/0";
    let cases = [
        (
            "privileged",
            format!("{container}/securityContext"),
            "{privileged: true}",
            "spec.template.spec.containers[0].securityContext.privileged",
        ),
        (
            "host-path",
            "/spec/template/spec/volumes".into(),
            "[{name: host, hostPath: {path: /}}]",
            "spec.template.spec.volumes[0].hostPath",
        ),
        (
            "node-name",
            "/spec/template/spec/nodeName".into(),
            "node-a",
            "spec.template.spec.nodeName",
        ),
        (
            "gates",
            "/spec/template/spec/schedulingGates".into(),
            "[{name: example.com/mine}]",
            "spec.template.spec.schedulingGates",
        ),
        (
            "limits",
            format!("{container}/resources"),
            "{limits: {nvidia.com/gpu: 2}}",
            "spec.template.spec.containers[*].resources.limits[nvidia.com/gpu]",
        ),
        (
            "visible",
            format!("{container}/env"),
            "[{name: NVIDIA_VISIBLE_DEVICES, value: all}]",
            "spec.template.spec.containers[0].env[0].name",
        ),
        (
            "host-network",
            "/spec/template/spec/hostNetwork".into(),
            "true",
            "spec.template.spec.hostNetwork",
        ),
        (
            "restarts",
            "/spec/template/spec/restartPolicy".into(),
            "Always",
            "spec.template.spec.restartPolicy",
        ),
    ];
    story(async |_, tenant| {
        let mut submitted = Vec::new();
        for (name, pointer, yaml, path) in &cases {
            submitted.push((
                tenant.submit(&job(name, 1).with(pointer, yaml)?).await?,
                path,
            ));
        }
        for (job, path) in &submitted {
            let message = job
                .until_condition(
                    ComputeJobCondition::Validated,
                    false,
                    ComputeJobReason::InvalidTemplate,
                )
                .await?;
            ensure!(
                message.contains(*path),
                "{}: {message:?} does not name {path}",
                job.name
            );
            ensure!(
                tenant.pods.of_job(&job.name).is_empty(),
                "{} had a pod",
                job.name
            );
        }
        Ok(())
    })
}

#[test]
fn a_pod_that_the_api_server_refuses_is_not_validated_and_its_words_are_passed_on() -> Result<()> {
    story(async |_, tenant| {
        let manifest = job("refused", 1).with(
            "/spec/template/spec/containers/0/volumeMounts",
            "[{name: nowhere, mountPath: /data}]",
        )?;
        let message = tenant
            .submit(&manifest)
            .await?
            .until_condition(
                ComputeJobCondition::Validated,
                false,
                ComputeJobReason::PodRefused,
            )
            .await?;
        ensure!(
            message.contains("volumeMounts[0].name") && message.contains("nowhere"),
            "it says {message:?}"
        );
        Ok(())
    })
}

#[test]
fn a_misspelt_field_of_the_template_is_refused_by_kubectl() -> Result<()> {
    story(async |_, tenant| {
        let yaml = job("misspelt", 1)
            .with("/spec/template/spec/containers/0/imagePullPolice", "Always")?
            .yaml()?;
        let namespace = format!("--namespace={}", tenant.namespace);
        match gridstake_e2e::command::kubectl_with_input(
            ["apply", "--filename=-", &namespace],
            &yaml,
        )
        .await
        {
            Ok(printed) => bail!("it was taken: {printed}"),
            Err(error) => ensure!(
                format!("{error:#}").contains("imagePullPolice"),
                "it says {error:#}"
            ),
        }
        Ok(())
    })
}

#[test]
fn an_image_that_does_not_exist_is_told_in_the_kubelets_words_and_ends_the_attempt() -> Result<()> {
    story(async |_, tenant| {
        let manifest = job("no-image", 1)
            .with(
                "/spec/template/spec/containers/0/image",
                "localhost/no-such-image:1",
            )?
            .with("/spec/timeouts", "{start: 8s}")?;
        let lost = tenant.submit(&manifest).await?;
        let message = lost
            .until_condition(
                ComputeJobCondition::Running,
                false,
                ComputeJobReason::WaitingForImage,
            )
            .await?;
        ensure!(
            message.contains("localhost/no-such-image:1"),
            "it says {message:?}"
        );
        let status = lost.until_failed().await?;
        let attempt = status.attempts.last().context("status.attempts")?;
        ensure!(
            attempt.end_reason == AttemptEndReason::ImagePullFailed,
            "{attempt:?}"
        );
        ensure!(
            attempt
                .message
                .as_deref()
                .unwrap_or_default()
                .contains("no-such-image"),
            "{attempt:?}"
        );
        ensure!(
            status.usage.unwrap_or_default().gpu_millis == 0,
            "nothing ran, so nothing was used"
        );
        Ok(())
    })
}

/// Where the definition says what `spec.gpu.count` may be.
const COUNT: &str =
    "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/gpu/properties/count";

#[test]
fn a_stored_object_that_cannot_be_parsed_stalls_only_itself() -> Result<()> {
    story(async |world, tenant| {
        // Such objects are left behind by older or newer definitions; so this one is loosened for a moment.
        let definitions: Api<CustomResourceDefinition> = Api::all(world.client.clone());
        let strict = serde_json::to_value(definitions.get("computejobs.gridstake.dev").await?)?
            .pointer(COUNT)
            .cloned()
            .context("the schema of spec.gpu.count")?;
        let (again, schema) = (definitions.clone(), strict.clone());
        world.undo_at_the_end("make the definition strict again", async move {
            set_count_schema(&again, &schema).await
        });
        set_count_schema(
            &definitions,
            &json!({"x-kubernetes-preserve-unknown-fields": true}),
        )
        .await?;

        let manifest = job("unparsable", 1).with("/spec/gpu/count", "many")?;
        gridstake_e2e::wait::try_until("the loosened definition is in force", || async {
            tenant.submit(&manifest).await
        })
        .await?;
        set_count_schema(&definitions, &strict).await?;

        tenant
            .submit(&job("sound", 1))
            .await?
            .until_complete()
            .await?;
        let unparsable = tenant.raw_jobs().get("unparsable").await?;
        ensure!(
            unparsable.data.get("status").is_none(),
            "{} got a status: {:?}",
            unparsable.name_any(),
            unparsable.data
        );
        Ok(())
    })
}

async fn set_count_schema(
    definitions: &Api<CustomResourceDefinition>,
    schema: &Value,
) -> Result<()> {
    let mut definition = serde_json::to_value(definitions.get("computejobs.gridstake.dev").await?)?;
    *definition
        .pointer_mut(COUNT)
        .context("find the schema of spec.gpu.count")? = schema.clone();
    definitions
        .replace(
            "computejobs.gridstake.dev",
            &PostParams::default(),
            &serde_json::from_value(definition)?,
        )
        .await
        .map(drop)
        .context("change the definition of ComputeJobs")
}
