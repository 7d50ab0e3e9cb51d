//! A provider's certificate for the key of a node's agent: `spec.agentCertificate` of its GpuNode.

use alloy::primitives::Address;
use gridstake_crds::GpuNode;
use gridstake_ledger::typed::{AgentKey, vault_domain};
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use serde_json::{Value, json};

use crate::{
    Told,
    cli::CertifyArgs,
    cluster::{self, Named},
    end::EndTime,
    error::PluginError,
    key::{Key, KeyError},
};

/// Certifies, and tells what was done or what is to be done.
pub async fn run(args: &CertifyArgs, now: Timestamp) -> Result<Told, PluginError> {
    let not_after = args.not_after.seen_from(now, "--not-after")?;
    let key = Key::read(&args.key_file)?;
    let named = Named {
        flag: "--node",
        kind: "GpuNode",
        plural: "gpunodes",
        name: &args.node,
    };
    let nodes: Api<GpuNode> = Api::all(cluster::client().await?);
    let node = cluster::read(&nodes, named).await?;
    let agent = agent_key(&node, &args.node).map_err(PluginError::Unfit)?;
    let patch = patch(args, agent, not_after, &key)?;
    if args.dry_run {
        return Ok(Told {
            result: command(&args.node, &patch),
            note: Some(format!(
                "nothing is written; once this command is run, {}",
                words(args, agent, not_after, &key)
            )),
        });
    }
    cluster::merge(&nodes, named, &patch).await?;
    Ok(Told {
        result: words(args, agent, not_after, &key),
        note: None,
    })
}

/// The key that the agent on the node called `name` shows.
fn agent_key(node: &GpuNode, name: &str) -> Result<Address, String> {
    let status = node.status.as_ref();
    let key = status
        .and_then(|status| status.agent.as_ref()?.key.as_ref())
        .ok_or_else(|| {
            format!(
                "--node: GpuNode {name} shows no key in status.agent.key: its device agent has not reported yet; wait until `kubectl get gpunode {name} -o jsonpath='{{.status.agent.key.address}}'` prints one"
            )
        })?;
    key.address.parse().map_err(|_| {
        format!(
            "--node: status.agent.key of GpuNode {name} is {:?}, which is no EVM address (0x and 40 hexadecimal digits)",
            key.address
        )
    })
}

/// What is merged into the GpuNode.
fn patch(
    args: &CertifyArgs,
    agent: Address,
    not_after: EndTime,
    key: &Key,
) -> Result<Value, KeyError> {
    let statement = AgentKey {
        provider: args.provider,
        node: args.node.clone(),
        key: agent,
        epoch: args.epoch,
        notAfter: not_after.seconds(),
    };
    let signature = key.sign(&statement, &vault_domain(args.chain_id, args.vault))?;
    let mut spec = json!({
        "agentCertificate": {
            "key": agent.to_string(),
            "epoch": args.epoch,
            "notAfter": not_after.to_string(),
            "signature": signature,
        },
    });
    if let Some(price) = args.price {
        spec["pricing"] = json!({"perGpuSecond": price});
    }
    Ok(json!({"spec": spec}))
}

/// The command that writes the certificate. Nothing in a patch ends the quotes.
fn command(node: &str, patch: &Value) -> String {
    format!("kubectl patch gpunode {node} --type merge --patch '{patch}'")
}

/// What was certified.
fn words(args: &CertifyArgs, agent: Address, not_after: EndTime, key: &Key) -> String {
    let price = args.price.map_or_else(String::new, |price| {
        format!(" Its price is {price} tokens a GPU-second.")
    });
    format!(
        "the key {agent} of the agent on node {} is provider {}'s for session epoch {}, until {not_after}.{price} Signed by {}, who must be the operator of that provider",
        args.node,
        args.provider,
        args.epoch,
        key.address()
    )
}

#[cfg(test)]
mod tests {
    use gridstake_ledger::{signature, typed::signer_of};

    use super::*;
    use crate::key::tests::key;

    const AGENT: Address = Address::repeat_byte(5);

    fn args() -> CertifyArgs {
        CertifyArgs {
            node: "n1".to_owned(),
            provider: 7,
            key_file: "key".into(),
            chain_id: 31337,
            vault: Address::repeat_byte(0x52),
            epoch: 3,
            not_after: "2027-01-01T00:00:00Z".parse().unwrap(),
            price: Some("0.00072".parse().unwrap()),
            dry_run: true,
        }
    }

    fn not_after() -> EndTime {
        let now = "2026-06-01T12:00:00Z".parse().unwrap();
        args().not_after.seen_from(now, "--not-after").unwrap()
    }

    fn node(agent: &Value) -> GpuNode {
        serde_json::from_value(json!({
            "apiVersion": "gridstake.dev/v1alpha1", "kind": "GpuNode", "metadata": {"name": "n1"},
            "spec": {}, "status": {"agent": agent},
        }))
        .unwrap()
    }

    /// The spec of a GpuNode into which `patch` was merged.
    fn patched(args: &CertifyArgs) -> gridstake_crds::GpuNodeSpec {
        let patch = patch(args, AGENT, not_after(), &key(1)).unwrap();
        serde_json::from_value(patch["spec"].clone()).unwrap()
    }

    #[test]
    fn what_is_written_is_signed_by_the_key_for_this_provider_node_and_vault_only() {
        let certificate = patched(&args()).agent_certificate.unwrap();
        let signer = |provider: u32, node: &str, vault: Address| {
            let statement = AgentKey {
                provider,
                node: node.to_owned(),
                key: certificate.key.parse().unwrap(),
                epoch: certificate.epoch,
                notAfter: certificate.not_after.0.as_second().try_into().unwrap(),
            };
            let signature = signature::parse(&certificate.signature).unwrap();
            signer_of(&statement, &vault_domain(31337, vault), &signature).unwrap()
        };
        let (operator, here) = (key(1).address(), args().vault);
        assert_eq!(signer(7, "n1", here), operator);
        assert_ne!(signer(8, "n1", here), operator);
        assert_ne!(signer(7, "n2", here), operator);
        assert_ne!(signer(7, "n1", AGENT), operator);
    }

    #[test]
    fn the_price_is_left_alone_unless_one_is_given() {
        let priced = patched(&args()).pricing.unwrap();
        assert_eq!(Some(priced.per_gpu_second), args().price);
        let unpriced = CertifyArgs {
            price: None,
            ..args()
        };
        let patch = patch(&unpriced, AGENT, not_after(), &key(1)).unwrap();
        assert_eq!(patch["spec"].as_object().unwrap().len(), 1);
    }

    #[test]
    fn an_agents_key_is_read_from_its_status() {
        let shown = json!({"version": "1", "state": "Ok", "key": {"address": AGENT.to_string()}});
        assert_eq!(agent_key(&node(&shown), "n1"), Ok(AGENT));
    }

    #[test]
    fn a_node_without_a_key_is_named_with_where_it_will_be() {
        for (agent, expected) in [
            (
                json!({"version": "1", "state": "Ok"}),
                "shows no key in status.agent.key",
            ),
            (
                json!({"version": "1", "state": "Ok", "key": {"address": "0x5"}}),
                "no EVM address",
            ),
        ] {
            let words = agent_key(&node(&agent), "n1").unwrap_err();
            assert!(
                words.starts_with("--node: ") && words.contains("n1") && words.contains(expected),
                "{words}"
            );
        }
    }

    #[test]
    fn a_dry_run_prints_a_command_that_a_shell_takes_as_it_is() {
        let patch = patch(&args(), AGENT, not_after(), &key(1)).unwrap();
        assert!(!patch.to_string().contains('\''), "{patch}");
        assert_eq!(
            command("n1", &patch),
            format!("kubectl patch gpunode n1 --type merge --patch '{patch}'")
        );
    }
}
