//! What the scheduler knows, in the words of the log. Pure.

use gridstake_ledger::archive::decisions as log;
use k8s_openapi::{
    api::core::v1::{NodeSelectorRequirement, NodeSelectorTerm, Taint, Toleration},
    apimachinery::pkg::apis::meta::v1::LabelSelector,
    jiff::Timestamp,
};

use gridstake_crds::{TokenAmount, closed_enum::ClosedEnum as _, compute_job::TopologyPolicy};

use super::Epoch;
use crate::scheduler::{
    Decision, NodeFacts, Request, Resources, gang::Stage, node_facts::DeviceFacts,
};

/// A node with what is taken of it. `closes_at` is when its provider takes it back.
pub fn node(
    facts: &NodeFacts,
    closes_at: Option<Timestamp>,
    weight: u64,
    taken: &Resources,
) -> log::Node {
    log::Node {
        name: facts.name.clone(),
        labels: facts.labels.clone(),
        taints: facts.taints.iter().map(taint).collect(),
        cordoned: facts.cordoned,
        namespaces: facts.namespaces.clone().map(|selector| {
            let selector = LabelSelector::from(selector);
            let equal = selector.match_labels.unwrap_or_default();
            let equal = equal.into_iter().map(|(key, value)| log::Requirement {
                key,
                operator: "In".to_owned(),
                values: vec![value],
            });
            let others = selector.match_expressions.unwrap_or_default();
            let others = others.into_iter().map(|rule| log::Requirement {
                key: rule.key,
                operator: rule.operator,
                values: rule.values.unwrap_or_default(),
            });
            equal.chain(others).collect()
        }),
        allocatable: amounts(&facts.allocatable),
        gpus: facts.devices.iter().map(gpu).collect(),
        withheld: facts.offer.err().map(|reason| reason.as_str().to_owned()),
        closes_at_ms: closes_at.map(Timestamp::as_millisecond),
        price: facts.price.nano(),
        region: facts.region.clone(),
        jurisdiction: facts.jurisdiction.clone(),
        reputation: facts.reputation,
        bonded: facts.bonded,
        chain: facts.chain.clone(),
        provider: facts.provider,
        owner: facts.owner.clone(),
        stake: facts.stake,
        weight,
        taken: amounts(taken),
    }
}

fn gpu(device: &DeviceFacts) -> log::Gpu {
    log::Gpu {
        model: device.model.clone(),
        memory_mib: device.memory_mib,
        compute_capability: device.compute_capability.map(|version| version.to_string()),
        usable: device.usable,
    }
}

fn taint(taint: &Taint) -> log::Taint {
    log::Taint {
        key: taint.key.clone(),
        value: taint.value.clone(),
        effect: taint.effect.clone(),
    }
}

/// Amounts.
pub fn amounts(resources: &Resources) -> log::Amounts {
    log::Amounts {
        cpu_milli: resources.cpu_milli,
        memory_bytes: resources.memory_bytes,
        ephemeral_storage_bytes: resources.ephemeral_storage_bytes,
        pods: resources.pods,
        gpus: resources.gpus,
        other: resources
            .other
            .iter()
            .filter(|(_, amount)| **amount > 0)
            .map(|(name, amount)| (name.clone(), *amount))
            .collect(),
    }
}

/// Whose weights are cut.
pub fn cuts(epoch: &Epoch) -> log::Cuts {
    let cuts = epoch.cuts.iter().map(|(model, owner, cut)| log::Cut {
        model: model.to_owned(),
        owner: owner.to_owned(),
        level: cut.level,
        sum: cut.sum,
    });
    log::Cuts {
        at_ms: epoch.begun.as_millisecond(),
        percent: epoch.cap.percent(),
        cuts: cuts.collect(),
    }
}

/// A request.
pub fn request(request: &Request) -> log::Request {
    let constraints = &request.constraints;
    log::Request {
        members: request.member_count(),
        each: amounts(&request.per_member()),
        models: request.gpu.models.clone(),
        min_memory_mib: request.gpu.min_memory_mib,
        min_compute_capability: request
            .gpu
            .min_compute_capability
            .map(|version| version.to_string()),
        node_selector: constraints.node_selector.clone(),
        affinity: constraints.required_affinity.as_ref().map(|affinity| {
            let terms = affinity.node_selector_terms.iter();
            terms.map(term).collect()
        }),
        tolerations: constraints.tolerations.iter().map(toleration).collect(),
        run_limit_ms: request
            .run_limit
            .map(|limit| u64::try_from(limit.as_millis()).unwrap_or(u64::MAX)),
        max_price: request.max_price.map(TokenAmount::nano),
        regions: request.regions.clone(),
        jurisdictions: request.jurisdictions.clone(),
        min_reputation: request.min_reputation,
        require_bond: request.require_bond,
        closeness: request.topology.as_ref().map(|topology| log::Closeness {
            key: topology.key.clone(),
            required: topology.policy == TopologyPolicy::Required,
        }),
        namespace_labels: request.namespace_labels.clone(),
        chain: request.chain.clone(),
        avoid: request.avoid.clone(),
        same_owner: request.same_owner.clone(),
        kept: request
            .kept
            .iter()
            .map(|(node, spare)| (node.clone(), amounts(spare)))
            .collect(),
    }
}

fn term(term: &NodeSelectorTerm) -> log::Term {
    let rules = |rules: &Option<Vec<NodeSelectorRequirement>>| {
        let rules = rules.as_deref().unwrap_or_default();
        rules.iter().map(requirement).collect()
    };
    log::Term {
        labels: rules(&term.match_expressions),
        fields: rules(&term.match_fields),
    }
}

fn requirement(rule: &NodeSelectorRequirement) -> log::Requirement {
    log::Requirement {
        key: rule.key.clone(),
        operator: rule.operator.clone(),
        values: rule.values.clone().unwrap_or_default(),
    }
}

fn toleration(toleration: &Toleration) -> log::Toleration {
    log::Toleration {
        key: toleration.key.clone(),
        operator: toleration.operator.clone(),
        value: toleration.value.clone(),
        effect: toleration.effect.clone(),
    }
}

/// A decision about a request, made at `at_ms` in Unix milliseconds.
pub fn decided(asked: &Request, decision: &Decision, at_ms: i64) -> log::Decided {
    let drawn = decision.drawn.iter().map(|drawn| log::Drawn {
        partly_used: drawn.stage == Stage::PartlyUsed,
        total: drawn.total,
        number: drawn.number,
        winner: drawn.winner.clone(),
    });
    let rejections = decision.rejections.iter();
    log::Decided {
        hash: decision.hash(),
        state: decision.state,
        at_ms,
        draw: crate::scheduler::draw::DRAW_VERSION.to_owned(),
        job: decision.job_uid.to_string(),
        attempt: decision.attempt,
        block: decision.seed.block_hash,
        previous: decision.seed.previous_decision,
        snapshot: decision.snapshot,
        candidates: decision.candidates,
        total_weight: decision.total_weight,
        drawn: drawn.collect(),
        rejections: rejections
            .map(|count| (count.reason.to_owned(), count.nodes))
            .collect(),
        request: request(asked),
    }
}
