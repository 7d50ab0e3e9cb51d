//! Story 45: a tenant's program looks around in the network. With the sample policy it reaches neither other pods nor the API
//! server; without it, it does, which shows that the policy is what holds it.

use gridstake_e2e::{
    command::{checkout, kubectl},
    prelude::*,
};
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, api::PostParams};
use serde_json::json;

/// Says of each address whether it can be connected to within two seconds.
fn looks_at(addresses: &[(&str, String)]) -> String {
    let probes: Vec<String> = addresses
        .iter()
        .map(|(name, address)| {
            let (host, port) = address.rsplit_once(':').unwrap_or((address, "80"));
            format!("if nc -w 2 {host} {port} </dev/null >/dev/null 2>&1; then echo {name}: reached; else echo {name}: not reached; fi")
        })
        .collect();
    probes.join("; ")
}

/// A pod of somebody else's that listens on port 8080; its address.
async fn listener(tenant: &Tenant) -> Result<String> {
    let pods: Api<Pod> = tenant.api();
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {"name": "listener"},
        "spec": {
            "terminationGracePeriodSeconds": 0,
            "tolerations": [{"operator": "Exists"}],
            "containers": [{"name": "main", "image": gridstake_e2e::job_manifest::IMAGE, "command": ["httpd", "-f", "-p", "8080"]}],
        },
    }))?;
    pods.create(&PostParams::default(), &pod)
        .await
        .context("create the pod that listens")?;
    gridstake_e2e::wait::watch_until(&pods, "listener", "has an address and runs", |pod| {
        let status = pod?.status.as_ref()?;
        (status.phase.as_deref() == Some("Running")).then(|| status.pod_ip.clone())?
    })
    .await
}

#[test]
#[ignore = "network policy: the native cluster has nothing that enforces one; .github/workflows/e2e.yml tells it on kind"]
fn a_job_reaches_neither_pods_nor_the_api_server_where_the_sample_policy_is() -> Result<()> {
    story(async |_, tenant| {
        let address = listener(tenant).await?;
        let around = [
            ("pod", format!("{address}:8080")),
            (
                "api-server",
                "$KUBERNETES_SERVICE_HOST:$KUBERNETES_SERVICE_PORT".to_owned(),
            ),
        ];
        let open = tenant
            .submit(&job("open", 1).script(&looks_at(&around)))
            .await?;
        open.until_complete().await?;
        let log = open.log("open-1-0").await?;
        ensure!(
            log.contains("pod: reached") && log.contains("api-server: reached"),
            "without a policy it sees {log:?}: this shows nothing"
        );

        let policy = checkout().join("manifests/samples/tenant-network-policy.yaml");
        kubectl([
            "apply",
            "--filename",
            &policy.to_string_lossy(),
            "--namespace",
            &tenant.namespace,
        ])
        .await?;
        let mut around = around.to_vec();
        around.push(("metadata", "169.254.169.254:80".to_owned()));
        let held = tenant
            .submit(&job("held", 1).script(&looks_at(&around)))
            .await?;
        held.until_complete().await?;
        let log = held.log("held-1-0").await?;
        ensure!(
            log.matches(": not reached").count() == 3,
            "with the policy it sees {log:?}"
        );
        Ok(())
    })
}
