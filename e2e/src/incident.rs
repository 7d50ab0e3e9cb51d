//! Incidents: what the operator has stated, and offences that a story states in its name, since nothing else may write one.

use alloy::primitives::keccak256;
use anyhow::{Context as _, Result};
use gridstake_crds::{
    Incident, IncidentStatus, TokenAmount,
    incident::{Dispute, IncidentState, Sanction},
    names::MANAGED_BY,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, ListParams, PostParams},
};
use serde_json::json;

use crate::{
    chain::Chain,
    command::kubectl,
    identity,
    provider::Provider,
    wait::{Look, sight, watch_until, watch_until_or_never},
    world::World,
};

/// Forgets all Incidents of `node`, now and at the story's end: each counts for the next one within 30 days, and for reputation.
pub async fn begin_anew(world: &World, node: &str) -> Result<()> {
    let name = node.to_owned();
    world.undo_at_the_end(format!("forget the Incidents of {node}"), async move {
        forget(&name).await
    });
    forget(node).await
}

async fn forget(node: &str) -> Result<()> {
    let incidents: Api<Incident> = Api::all(identity::administrator_as_operator().await?);
    for incident in incidents.list(&ListParams::default()).await? {
        if incident.spec.subject.node_name == node {
            incidents
                .delete(&incident.name_any(), &DeleteParams::default())
                .await
                .with_context(|| format!("remove Incident {}", incident.name_any()))?;
        }
    }
    Ok(())
}

/// The names of the Incidents about jobs of `namespace`.
pub async fn about(world: &World, namespace: &str) -> Result<Vec<String>> {
    let incidents: Api<Incident> = Api::all(world.client.clone());
    let all = incidents.list(&ListParams::default()).await?;
    let concerns = |incident: &&Incident| {
        let job = incident.spec.job.as_ref();
        job.is_some_and(|job| job.namespace == namespace)
    };
    Ok(all
        .iter()
        .filter(concerns)
        .map(ResourceExt::name_any)
        .collect())
}

/// An offence, and what follows from it.
pub struct Case {
    /// Its name.
    pub name: String,
    incidents: Api<Incident>,
}

impl Case {
    /// What the Incident of this name tells, which there may be or come to be.
    #[must_use]
    pub fn of_name(world: &World, name: &str) -> Self {
        Self {
            name: name.to_owned(),
            incidents: Api::all(world.client.clone()),
        }
    }

    /// The Incident as it is now.
    pub async fn get(&self) -> Result<Incident> {
        let found = self.incidents.get(&self.name).await;
        found.with_context(|| format!("get Incident {}", self.name))
    }

    /// The columns of it that are filled in, as `kubectl get incidents` shows them.
    pub async fn shown(&self) -> Result<Vec<String>> {
        let line = kubectl(["get", "incident", &self.name, "--no-headers"]).await?;
        Ok(line.split_whitespace().map(str::to_owned).collect())
    }

    /// Waits until it says that this much is held back, in nano-tokens.
    pub async fn until_it_holds(&self, nano: u64) -> Result<()> {
        let what = format!("{nano} nano-tokens are held back");
        watch_until(&self.incidents, &self.name, &what, |incident| {
            let held = incident?.status.as_ref()?.held?;
            (held.nano() == u128::from(nano)).then_some(())
        })
        .await
    }

    /// States that the provider's node claims devices that it does not have, for which `slash` is to be cut as a part of the stake.
    /// The Incident is removed at the story's end.
    pub async fn open(
        world: &World,
        chain: &Chain,
        provider: &Provider,
        name: &str,
        slash: TokenAmount,
    ) -> Result<Self> {
        let part = (Sanction::PartialSlash, slash);
        Self::open_with(world, chain, provider, name, part).await
    }

    /// The same with a sanction of which it says how much it takes.
    pub async fn open_with(
        world: &World,
        chain: &Chain,
        provider: &Provider,
        name: &str,
        (sanction, slash): (Sanction, TokenAmount),
    ) -> Result<Self> {
        let operator = identity::operator(world)?;
        let incidents: Api<Incident> = Api::all(operator);
        let incident: Incident = serde_json::from_value(json!({
            "metadata": {"name": name, "labels": {"app.kubernetes.io/managed-by": MANAGED_BY}},
            "spec": {
                "offence": "FalseInventory",
                "subject": {"nodeName": "a-node-that-left", "providerId": provider.id},
                "from": "2026-01-01T00:00:00Z",
                "to": "2026-01-01T00:00:10Z",
                "verdict": "Host",
                "evidenceHash": keccak256(name),
                "summary": "a story of the end-to-end tests",
                "sanction": sanction,
                "slash": slash,
                "chain": chain.name,
            },
        }))?;
        let (undo, gone) = (incidents.clone(), name.to_owned());
        world.undo_at_the_end(format!("remove Incident {name}"), async move {
            undo.delete(&gone, &DeleteParams::default())
                .await
                .map(drop)
                .with_context(|| format!("remove Incident {gone}"))
        });
        incidents
            .create(&PostParams::default(), &incident)
            .await
            .with_context(|| format!("create Incident {name}"))?;
        Ok(Self {
            name: name.to_owned(),
            incidents,
        })
    }

    /// Waits until the incident is in `state`, and returns its status; at once an error where it ends otherwise.
    pub async fn until(&self, state: IncidentState) -> Result<IncidentStatus> {
        let ends = [IncidentState::Executed, IncidentState::Cancelled];
        let what = format!("is {state}");
        watch_until_or_never(&self.incidents, &self.name, &what, |incident| {
            let Some(status) = incident.and_then(|i| i.status.clone()) else {
                return Look::NotYet(sight(incident));
            };
            match status.state {
                Some(now) if now == state => Look::Yes(status),
                Some(now) if ends.contains(&now) => Look::Never(format!("it is {now}")),
                _ => Look::NotYet(sight(incident)),
            }
        })
        .await
    }

    /// Waits until the provider's answer is final and written down, and returns it.
    pub async fn until_answered(&self) -> Result<Dispute> {
        watch_until(&self.incidents, &self.name, "its answer is final", |i| {
            i.and_then(|i| i.status.as_ref()?.dispute.clone())
        })
        .await
    }

    /// Waits until it says that the contract refuses its slash with this error.
    pub async fn until_refused(&self, error: &str) -> Result<()> {
        let what = format!("the contract refuses it: {error}");
        watch_until(&self.incidents, &self.name, &what, |incident| {
            let conditions = &incident?.status.as_ref()?.conditions;
            let refuses =
                |c: &&Condition| c.reason == "ContractRefused" && c.message.contains(error);
            conditions.iter().find(refuses).map(drop)
        })
        .await
    }

    /// The number of its slash in the contract.
    pub fn slash(status: &IncidentStatus) -> Result<alloy::primitives::U256> {
        let proposal = status.proposal.as_ref().context("no slash is proposed")?;
        proposal.id.parse().context("read the slash's number")
    }
}
