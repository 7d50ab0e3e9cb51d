//! Story 44: somebody who may create jobs writes what no program would: objects of more than a MiB, brackets without end, numbers
//! beyond every border, text in every script. Each gets an answer that names what is wrong, or is run as it stands; nothing that
//! serves others falls over.

use gridstake_e2e::{command::kubectl, prelude::*};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;

/// Text that is more than it looks: several bytes a character, marks that combine, a change of direction, nothing visible.
const TEXT: &str = "Ünïcödé 漢字 🜂 e\u{301} \u{202e}desrever\u{202c} \u{200b}\u{feff}";

/// Creates what `body` says as it stands, through no program that would refuse to write it; the API server's words.
async fn created(tenant: &Tenant, body: &str) -> std::result::Result<String, String> {
    let path = format!(
        "/apis/gridstake.dev/v1alpha1/namespaces/{}/computejobs?fieldValidation=Strict",
        tenant.namespace
    );
    // A file, and not standard input: an answer may come before all of it is read.
    let file = tempfile::NamedTempFile::new().map_err(|error| error.to_string())?;
    std::fs::write(file.path(), body).map_err(|error| error.to_string())?;
    let name = file.path().to_string_lossy().into_owned();
    kubectl(["create", "--raw", &path, "--filename", &name])
        .await
        .map_err(|error| format!("{error:#}"))
}

/// A job whose spec has `spec` beside its template, and whose container has `container` beside its image.
fn body(name: &str, spec: &str, container: &str) -> String {
    format!(
        r#"{{"apiVersion":"gridstake.dev/v1alpha1","kind":"ComputeJob","metadata":{{"name":"{name}"}},"spec":{{{spec}"template":{{"spec":{{"containers":[{{"name":"main",{container}"image":"localhost/busybox:1"}}]}}}}}}}}"#
    )
}

/// How often each container of Gridstake has been started again, by pod.
async fn restarts(world: &World) -> Result<Vec<(String, i32)>> {
    let mut all = Vec::new();
    for component in ["operator", "device-agent"] {
        for pod in world.pods_of(component).await? {
            all.push((pod.name_any(), restarts_of(&pod)));
        }
    }
    all.sort();
    Ok(all)
}

fn restarts_of(pod: &Pod) -> i32 {
    let statuses = pod
        .status
        .iter()
        .flat_map(|s| s.container_statuses.iter().flatten());
    statuses.map(|container| container.restart_count).sum()
}

/// Nothing of Gridstake has fallen over since `before`, and a job of somebody who means well runs.
async fn all_is_well(world: &World, tenant: &Tenant, before: &[(String, i32)]) -> Result<()> {
    tenant
        .submit(&job("sound", 1))
        .await?
        .until_complete()
        .await?;
    let after = restarts(world).await?;
    ensure!(
        after == before,
        "containers were started again: {before:?}, and now {after:?}"
    );
    Ok(())
}

#[test]
fn numbers_beyond_every_border_are_refused_and_the_field_is_named() -> Result<()> {
    let gpu = r#""gpu":{"count":1},"#;
    let digits = "9".repeat(4000);
    let cases = [
        (
            r#""gpu":{"count":9223372036854775808},"#.to_owned(),
            "",
            "spec.gpu.count",
        ),
        (r#""gpu":{"count":-1},"#.to_owned(), "", "spec.gpu.count"),
        (r#""gpu":{"count":1.5},"#.to_owned(), "", "spec.gpu.count"),
        (r#""gpu":{"count":1e400},"#.to_owned(), "", "1e400"),
        (format!(r#"{gpu}"members":4294967296,"#), "", "spec.members"),
        (
            format!(r#"{gpu}"pricing":{{"maxPerGpuSecond":"{digits}"}},"#),
            "",
            "spec.pricing.maxPerGpuSecond",
        ),
        (
            format!(r#"{gpu}"pricing":{{"maxPerGpuSecond":1}},"#),
            "",
            "spec.pricing.maxPerGpuSecond",
        ),
        (
            format!(r#"{gpu}"timeouts":{{"run":"99999999999999999999h"}},"#),
            "",
            "spec.timeouts.run",
        ),
        (
            format!(r#"{gpu}"retry":{{"infrastructure":4294967296}},"#),
            "",
            "spec.retry.infrastructure",
        ),
        (format!(r#"{gpu}"gpu":{{"count":2}},"#), "", "gpu"),
    ];
    story(async |world, tenant| {
        let before = restarts(world).await?;
        for (number, (spec, container, field)) in cases.iter().enumerate() {
            match created(tenant, &body(&format!("number-{number}"), spec, container)).await {
                Ok(printed) => bail!("{spec:.200} was taken: {printed:.200}"),
                Err(words) => ensure!(
                    words.contains(field),
                    "{spec:.200}: {words:.600} does not name {field}"
                ),
            }
        }
        all_is_well(world, tenant, &before).await
    })
}

/// What the API server takes as a quantity, and no node has: the job waits and says what comes nearest, or the pod is refused.
#[test]
fn quantities_that_no_node_has_are_told_and_hold_nobody_up() -> Result<()> {
    story(async |world, tenant| {
        let before = restarts(world).await?;
        let mut jobs = Vec::new();
        for (name, quantity) in [
            ("exa", "9223372036854775807Ei"),
            ("digits", "99999999999999999999999999999999999999999"),
            ("exponent", "1e18"),
            ("fine", "0.000000000000000001"),
        ] {
            let container =
                format!(r#""command":["true"],"resources":{{"requests":{{"cpu":"{quantity}"}}}},"#);
            match created(tenant, &body(name, r#""gpu":{"count":1},"#, &container)).await {
                Ok(_) => jobs.push(tenant.job(name)),
                Err(words) => ensure!(
                    words.contains("cpu") || words.contains("quantit"),
                    "{quantity}: {words:.600}"
                ),
            }
        }
        for job in &jobs {
            job.until("it is answered", |status| {
                let told = status
                    .conditions
                    .iter()
                    .any(|c| c.status == "False" && !c.message.is_empty() && c.reason != "Pending");
                (told || status.end_reason.is_some()).then_some(())
            })
            .await?;
        }
        all_is_well(world, tenant, &before).await
    })
}

#[test]
fn brackets_without_end_are_refused_or_left_out_and_nothing_falls_over() -> Result<()> {
    story(async |world, tenant| {
        let before = restarts(world).await?;
        for depth in [200, 9_000, 100_000] {
            let deep = format!("{}{}", "[".repeat(depth), "]".repeat(depth));
            let spec = format!(r#""gpu":{{"count":1}},"unknown":{deep},"#);
            match created(tenant, &body(&format!("deep-{depth}"), &spec, "")).await {
                Ok(printed) => bail!("{depth} brackets were taken: {printed:.200}"),
                Err(words) => ensure!(
                    words.contains("unknown") || words.contains("depth"),
                    "{depth} brackets: {words:.600}"
                ),
            }
            // Where a string, a list or a map belongs.
            let args = format!(r#""args":{deep},"#);
            if let Ok(printed) = created(
                tenant,
                &body(&format!("args-{depth}"), r#""gpu":{"count":1},"#, &args),
            )
            .await
            {
                bail!("{depth} brackets as arguments were taken: {printed:.200}");
            }
        }
        all_is_well(world, tenant, &before).await
    })
}

/// The API server's words, its storage's, or those of the connection between the two.
fn is_about_its_size(words: &str) -> bool {
    words.contains("too large") || words.contains("larger than max")
}

#[test]
fn an_object_that_is_too_large_is_refused_and_one_that_is_just_not_gets_an_answer() -> Result<()> {
    story(async |world, tenant| {
        let before = restarts(world).await?;
        let of = |name: &str, kib: usize| {
            // One variable may have 128 KiB before the kernel starts no program with it.
            let variables: Vec<String> = (0..kib / 64)
                .map(|number| {
                    format!(
                        r#"{{"name":"V{number}","value":"{}"}}"#,
                        "x".repeat(64 << 10)
                    )
                })
                .collect();
            let container = format!(r#""command":["true"],"env":[{}],"#, variables.join(","));
            body(name, r#""gpu":{"count":1},"#, &container)
        };
        for kib in [2 << 10, 4 << 10] {
            match created(tenant, &of("too-large", kib)).await {
                Ok(_) => bail!("an object of {kib} KiB was taken"),
                Err(words) => ensure!(is_about_its_size(&words), "{kib} KiB: {words:.600}"),
            }
        }
        // Its pod is as large, and so is its status's managed part: whatever comes of it, it is told.
        for (name, kib) in [("half-a-mib", 512), ("a-mib", 1 << 10), ("the-most", 1472)] {
            if let Err(words) = created(tenant, &of(name, kib)).await {
                ensure!(is_about_its_size(&words), "{kib} KiB: {words:.600}");
                continue;
            }
            tenant
                .job(name)
                .until("it is over, or says why it does not begin", |status| {
                    let refused = status
                        .conditions
                        .iter()
                        .any(|c| c.status == "False" && c.type_ == "Validated");
                    (refused || status.end_reason.is_some()).then_some(())
                })
                .await?;
        }
        all_is_well(world, tenant, &before).await
    })
}

#[test]
fn text_in_every_script_is_run_and_told_as_it_stands() -> Result<()> {
    story(async |world, tenant| {
        let before = restarts(world).await?;
        let text = serde_json::to_string(TEXT)?;
        for (name, kind) in [("label", "labels"), ("name", "name")] {
            let metadata = if kind == "labels" {
                format!(r#""name":"text-label","labels":{{"a":{text}}}"#)
            } else {
                format!(r#""name":{text}"#)
            };
            let manifest = body(name, r#""gpu":{"count":1},"#, "")
                .replace(&format!(r#""name":"{name}""#), &metadata);
            match created(tenant, &manifest).await {
                Ok(printed) => bail!("{kind}: taken: {printed:.200}"),
                Err(words) => ensure!(words.contains("metadata."), "{kind}: {words:.600}"),
            }
        }
        // Its own last words are of several bytes a character, and more than the kubelet keeps.
        let script = r"i=0; while [ $i -lt 600 ]; do printf '%s' 漢字🜂; i=$((i+1)); done >/dev/termination-log; echo 漢字🜂; exit 3";
        let annotated = job("text-fails", 1)
            .with(
                "/metadata/annotations",
                &format!("{{example.com/a: {text}}}"),
            )?
            .with(
                "/spec/template/spec/containers/0/env",
                &format!("[{{name: TEXT, value: {text}}}]"),
            )?
            .script(script);
        let fails = tenant.submit(&annotated).await?;
        fails.until_failed().await?;
        let prints = job("text-prints", 1)
            .with(
                "/spec/template/metadata/annotations",
                &format!("{{example.com/a: {text}}}"),
            )?
            .with(
                "/spec/template/spec/containers/0/env",
                &format!("[{{name: TEXT, value: {text}}}]"),
            )?
            .script("echo \"$TEXT\"");
        let prints = tenant.submit(&prints).await?;
        prints.until_complete().await?;
        let log = prints.log("text-prints-1-0").await?;
        ensure!(log.trim_end_matches('\n') == TEXT, "it printed {log:?}");
        all_is_well(world, tenant, &before).await
    })
}
