//! `bind`: the StakeBinding by which nodes stand for a provider, with the addresses that the chain has.

use gridstake_contracts::StakeVault;
use gridstake_crds::StakeBinding;
use kube::{Api, api::PostParams};
use serde_json::{Value, json};

use super::{MoneyError, args::BindArgs, chain::Chain, place, plan::Contract};
use crate::{Told, cluster, confirm, error::PluginError};

/// Field manager of what the plugin writes.
const MANAGER: &str = "kubectl-gridstake";

/// Creates the StakeBinding, and tells what comes next.
pub async fn run(args: &BindArgs) -> Result<Told, PluginError> {
    let place = place::find(&args.on).await?;
    let chain = Chain::open(&place).await?;
    let name = place.name.ok_or_else(|| {
        MoneyError::Unfit(
            "--chain: name the chain as the operator's configuration does, such as base".to_owned(),
        )
    })?;
    let provider = args.provider;
    let (known, is_bonded) = tokio::try_join!(
        chain.read(
            "look for the provider",
            Contract::Vault,
            StakeVault::providerOfCall { provider }
        ),
        chain.read(
            "ask whether it is bonded",
            Contract::Vault,
            StakeVault::isBondedCall { provider, role: 0 }
        ),
    )?;
    let binding = binding(
        args,
        &name,
        [known.staker, known.operator, known.beneficiary].map(|it| it.to_string()),
    );
    if args.dry_run {
        return Ok(Told {
            result: serde_saphyr::to_string(&binding)
                .map(|text| text.trim_end().to_owned())
                .map_err(|error| PluginError::Output(Box::new(error)))?,
            note: Some("nothing is written: kubectl apply -f - takes this".to_owned()),
        });
    }
    let (object, nodes) = (object_name(args), args.nodes.join(", "));
    let question = format!(
        "Create StakeBinding {object}, by which provider {provider} on chain {name} answers for {nodes}? It can be slashed for their faults."
    );
    confirm::ask(&question, args.yes, "nothing is written")?;
    let binding: StakeBinding = serde_json::from_value(binding)
        .map_err(|error| PluginError::Unfit(format!("StakeBinding {object}: {error}")))?;
    let bindings: Api<StakeBinding> = Api::all(cluster::client().await?);
    let params = PostParams {
        field_manager: Some(MANAGER.to_owned()),
        ..PostParams::default()
    };
    match bindings.create(&params, &binding).await {
        Ok(_) => {}
        Err(kube::Error::Api(status)) if status.is_already_exists() => {
            return Err(PluginError::Unfit(format!(
                "--name: there is a StakeBinding {object} already: `kubectl get stakebinding {object} -o yaml` shows it, `kubectl edit stakebinding {object}` changes its nodes; or give this one another --name"
            )));
        }
        Err(source) => {
            return Err(PluginError::Write {
                what: format!("StakeBinding {object}"),
                source: Box::new(source),
            });
        }
    }
    let stake = if is_bonded {
        String::new()
    } else {
        format!(
            "\nnext: stake more than is asked of a miner: kubectl gridstake stake --provider {provider} --amount TOKENS --key-file FILE"
        )
    };
    Ok(Told {
        result: format!(
            "StakeBinding {object}: provider {provider} on chain {name} answers for {nodes}{stake}\nnext: certify each node's agent with the operator's key: kubectl gridstake certify --node {} --provider {provider} --chain-id {} --vault {} --epoch {} --price TOKENS --key-file FILE\nkubectl get stakebinding {object} says whether it is ready",
            args.nodes.first().map_or("NODE", String::as_str),
            chain.id,
            chain.vault,
            known.sessionEpoch
        ),
        note: None,
    })
}

fn object_name(args: &BindArgs) -> String {
    let own = || format!("provider-{}", args.provider);
    args.name.clone().unwrap_or_else(own)
}

/// `addresses`: staker, operator, beneficiary.
fn binding(args: &BindArgs, chain: &str, addresses: [String; 3]) -> Value {
    let [staker, operator, beneficiary] = addresses;
    json!({
        "apiVersion": "gridstake.dev/v1alpha1",
        "kind": "StakeBinding",
        "metadata": {"name": object_name(args)},
        "spec": {
            "chain": chain,
            "providerId": args.provider,
            "role": "Miner",
            "nodeNames": args.nodes,
            "stakerAddress": staker,
            "operatorAddress": operator,
            "beneficiary": beneficiary,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::money::args::ChainArgs;

    #[test]
    fn a_binding_has_the_addresses_of_the_chain_and_the_nodes_of_the_flags() {
        let args = BindArgs {
            provider: 7,
            nodes: vec!["n1".to_owned(), "n2".to_owned()],
            name: None,
            on: ChainArgs {
                chain: None,
                rpc: None,
                settlement: None,
                chain_id: None,
                operator_namespace: "gridstake-system".to_owned(),
            },
            yes: true,
            dry_run: false,
        };
        let addresses = ["0x01", "0x02", "0x03"].map(str::to_owned);
        let written: StakeBinding =
            serde_json::from_value(binding(&args, "base", addresses)).unwrap();
        assert_eq!(written.metadata.name.as_deref(), Some("provider-7"));
        let spec = written.spec;
        assert_eq!((spec.chain.as_str(), spec.provider_id), ("base", 7));
        assert_eq!(spec.node_names, ["n1", "n2"]);
        assert_eq!(spec.staker_address, "0x01");
        assert_eq!(spec.operator_address, "0x02");
        assert_eq!(spec.beneficiary.as_deref(), Some("0x03"));
    }
}
