//! Facts about [`super::decide`] and [`super::status`].

use std::{collections::BTreeSet, sync::Arc};

use gridstake_crds::{
    GpuNode,
    closed_enum::ClosedEnum as _,
    condition::Status,
    gpu_node::{GpuNodeReason, OfferReason, OfferState, OwnerCut},
};
use k8s_openapi::{
    api::core::v1::Node,
    jiff::{SignedDuration, Timestamp},
};
use serde_json::{Value, json};

use super::{
    decide::{CutSeen, Plan, decide, offer},
    guarantee::{CertificateFault, Guarantee},
    local_use::LocalUse,
    mode::ModeSight,
    observe::Observed,
    offer_windows, status,
};
use crate::{
    controllers::stake_binding::{
        bond::{Backing, Bond, Provider},
        fixtures::OPERATOR,
    },
    failover::Terms,
    reputation::{key::Owner, standing::Known},
    snapshot::GpuCounts,
};

fn now() -> Timestamp {
    "2026-06-01T12:00:00Z".parse().unwrap()
}

fn ago(seconds: i64) -> Timestamp {
    now() - SignedDuration::from_secs(seconds)
}

fn device(uuid: &str, health: &str) -> Value {
    json!({"uuid": uuid, "index": 0, "model": "NVIDIA L4", "memoryMiB": 23034, "computeCapability": "8.9",
        "health": health, "reasons": if health == "Unhealthy" { json!(["GpuLost"]) } else { json!([]) }})
}

fn gpu_node(spec: &Value, status: &Value) -> GpuNode {
    serde_json::from_value(json!({
        "apiVersion": "gridstake.dev/v1alpha1", "kind": "GpuNode",
        "metadata": {"name": "n1", "generation": 3}, "spec": spec, "status": status,
    }))
    .unwrap()
}

fn agent(state: &str) -> Value {
    json!({"version": "1", "state": state, "message": "dlopen failed"})
}

fn two_devices() -> Value {
    json!({"agent": agent("Ok"), "devices": [device("GPU-0", "Healthy"), device("GPU-1", "Healthy")]})
}

fn node(spec: &Value, ready: &str, gpus: Option<&str>) -> Node {
    let mut allocatable = json!({"cpu": "8"});
    if let Some(gpus) = gpus {
        allocatable["nvidia.com/gpu"] = gpus.into();
    }
    serde_json::from_value(json!({
        "metadata": {"name": "n1"}, "spec": spec,
        "status": {"allocatable": allocatable, "conditions": [
            {"type": "MemoryPressure", "status": "True"}, {"type": "Ready", "status": ready}]},
    }))
    .unwrap()
}

fn sound_node() -> Node {
    node(&json!({}), "True", Some("2"))
}

fn seen(node: Option<Node>, heartbeat: Option<Timestamp>) -> Observed {
    Observed {
        failures: Vec::new(),
        node: node.map(Arc::new),
        heartbeat,
        failover: Terms::default(),
        quarantine: super::quarantine::Terms::default(),
        amnesty: false,
        gpus: GpuCounts {
            capacity: 2,
            free: 1,
        },
        guarantee: Guarantee::default(),
        rivals: BTreeSet::new(),
        stated: None,
        mode: ModeSight::default(),
        appraisal: None,
        owner_cut: None,
    }
}

fn all_well() -> Observed {
    seen(Some(sound_node()), Some(ago(5)))
}

fn stated(plan: &Plan, condition: &str) -> (Status, &'static str) {
    let fact = plan
        .facts
        .iter()
        .find(|fact| fact.condition == condition)
        .unwrap();
    (fact.status, fact.reason)
}

fn words(plan: &Plan, condition: &str) -> String {
    let fact = plan
        .facts
        .iter()
        .find(|fact| fact.condition == condition)
        .unwrap();
    fact.message.clone()
}

/// Holds for all cases: which reason is given, and that offer, conditions and reason agree.
fn expect(
    case: &str,
    gpu_node: &GpuNode,
    node: Option<Node>,
    heartbeat: Option<Timestamp>,
    expected: OfferReason,
) {
    let verdict = offer(
        gpu_node,
        node.as_ref(),
        Terms::default().is_silent(heartbeat, now()),
        &Guarantee::default(),
        &ModeSight::default(),
        now(),
    );
    assert_eq!(
        verdict.err().unwrap_or(OfferReason::Available),
        expected,
        "{case}"
    );
    let plan = decide(gpu_node, &seen(node, heartbeat), now());
    let offered = expected == OfferReason::Available;
    let state = if offered {
        OfferState::Offered
    } else {
        OfferState::Withheld
    };
    assert_eq!(
        (plan.offer.state, plan.offer.reason),
        (state, expected),
        "{case}"
    );
    assert_eq!(
        stated(&plan, "Offered"),
        (offered.into(), expected.as_str()),
        "{case}"
    );
    let ready = if offered { "Ready" } else { "NotOffered" };
    assert_eq!(stated(&plan, "Ready"), (offered.into(), ready), "{case}");
}

fn well() -> GpuNode {
    gpu_node(&json!({}), &two_devices())
}

fn fresh() -> Timestamp {
    ago(5)
}

#[test]
fn a_node_is_offered_only_while_its_node_is_ready_and_not_cordoned() {
    use OfferReason as R;
    let cordoned = node(&json!({"unschedulable": true}), "True", Some("2"));
    for (case, node, expected) in [
        ("all is well", Some(sound_node()), R::Available),
        ("no Node", None, R::NodeMissing),
        (
            "not ready",
            Some(node(&json!({}), "False", Some("2"))),
            R::NodeNotReady,
        ),
        (
            "kubelet silent",
            Some(node(&json!({}), "Unknown", Some("2"))),
            R::NodeNotReady,
        ),
        ("no status", Some(Node::default()), R::NodeNotReady),
        ("cordoned", Some(cordoned), R::NodeCordoned),
        (
            "no device plugin",
            Some(node(&json!({}), "True", None)),
            R::NoDevicePlugin,
        ),
        (
            "a plugin with nothing",
            Some(node(&json!({}), "True", Some("0"))),
            R::NoDevicePlugin,
        ),
        (
            "an unreadable amount",
            Some(node(&json!({}), "True", Some("x"))),
            R::NoDevicePlugin,
        ),
    ] {
        expect(case, &well(), node, Some(fresh()), expected);
    }
}

#[test]
fn a_node_is_offered_only_while_its_agent_is_heard_and_sees_gpus() {
    use OfferReason as R;
    for (case, heartbeat, expected) in [
        ("no heartbeat ever", None, R::AgentSilent),
        ("silent for 30 s", Some(ago(30)), R::AgentSilent),
        ("silent for 29 s", Some(ago(29)), R::Available),
    ] {
        expect(case, &well(), Some(sound_node()), heartbeat, expected);
    }
    let sees =
        |state: &str| json!({"agent": agent(state), "devices": [device("GPU-0", "Healthy")]});
    let has = |health: [&str; 2]| json!({"agent": agent("Ok"), "devices": [device("GPU-0", health[0]), device("GPU-1", health[1])]});
    for (case, status, expected) in [
        ("nothing reported", json!({}), R::NvmlUnavailable),
        (
            "library missing",
            json!({"agent": agent("LibraryMissing")}),
            R::NvmlUnavailable,
        ),
        ("driver too old", sees("DriverTooOld"), R::NvmlUnavailable),
        ("call stuck", sees("CallStuck"), R::NvmlUnavailable),
        (
            "no GPU seen",
            json!({"agent": agent("NoDevices")}),
            R::NoDevices,
        ),
        ("no GPU listed", json!({"agent": agent("Ok")}), R::NoDevices),
        (
            "one of two lost",
            has(["Healthy", "Unhealthy"]),
            R::Available,
        ),
        (
            "one lost, one degraded",
            has(["Unhealthy", "Degraded"]),
            R::Available,
        ),
        (
            "both lost",
            has(["Unhealthy", "Unknown"]),
            R::NoHealthyDevices,
        ),
    ] {
        expect(
            case,
            &gpu_node(&json!({}), &status),
            Some(sound_node()),
            Some(fresh()),
            expected,
        );
    }
}

#[test]
fn a_node_is_offered_only_when_its_provider_wants_it() {
    use OfferReason as R;
    let maintenance = |from: i64, to: i64| json!({"maintenance": [{"from": ago(from).to_string(), "to": ago(to).to_string()}]});
    for (case, spec, expected) in [
        (
            "maintenance is running",
            maintenance(10, -10),
            R::Maintenance,
        ),
        (
            "maintenance begins now",
            maintenance(0, -10),
            R::Maintenance,
        ),
        ("maintenance ends now", maintenance(10, 0), R::Available),
        (
            "maintenance is to come",
            maintenance(-10, -20),
            R::Available,
        ),
        ("drained", json!({"mode": "Drained"}), R::Drained),
    ] {
        expect(
            case,
            &gpu_node(&spec, &two_devices()),
            Some(sound_node()),
            Some(fresh()),
            expected,
        );
    }
}

/// What the mode of `spec` looks at.
fn with_mode(spec: &Value, local: LocalUse) -> (GpuNode, Observed) {
    let gpu_node = gpu_node(spec, &two_devices());
    let windows = &gpu_node.spec.windows;
    let seen = Observed {
        mode: ModeSight {
            windows: (!windows.is_empty()).then(|| offer_windows::standing(windows, now())),
            local,
        },
        ..all_well()
    };
    (gpu_node, seen)
}

#[test]
fn a_node_on_a_schedule_is_offered_while_a_window_is_open_and_looked_at_when_that_changes() {
    use OfferReason as R;
    let spec = |cron: &str| json!({"mode": "Scheduled", "windows": [{"cron": cron, "duration": "2h", "timeZone": "Europe/Berlin"}]});
    // It is 14:00 in Berlin.
    for (cron, reason, expected, again) in [
        (
            "0 13 * * *",
            R::Available,
            "free GPUs may be given to jobs",
            Some(-3600),
        ),
        (
            "0 12 * * *",
            R::OutsideWindow,
            "no window of spec.windows is open",
            Some(-79_200),
        ),
        (
            "0 26 * * *",
            R::InvalidWindow,
            "spec.windows[0].cron: the hour \"26\"",
            None,
        ),
    ] {
        let (gpu_node, seen) = with_mode(&spec(cron), LocalUse::default());
        let plan = decide(&gpu_node, &seen, now());
        assert_eq!(plan.offer.reason, reason, "{cron}");
        assert!(words(&plan, "Offered").starts_with(expected), "{plan:?}");
        // The heartbeat's silence would come first.
        let later = Observed {
            heartbeat: None,
            ..seen
        };
        assert_eq!(
            decide(&gpu_node, &later, now()).again_at,
            again.map(ago),
            "{cron}"
        );
    }
}

#[test]
fn a_node_for_idle_times_is_offered_once_it_has_been_idle_for_its_window() {
    use OfferReason as R;
    let idle_for = |seconds: i64| LocalUse {
        idle_since: Some(ago(seconds)),
        ..LocalUse::default()
    };
    let spec =
        json!({"mode": "IdleOnly", "idle": {"maxUtilizationPercent": 5, "windowSeconds": 60}});
    let by_default = json!({"mode": "IdleOnly"});
    let held = LocalUse {
        holder: Some("team/p".to_owned()),
        ..idle_for(1000)
    };
    for (case, spec, local, reason) in [
        ("idle for the window", &spec, idle_for(60), R::Available),
        ("idle for less", &spec, idle_for(59), R::InLocalUse),
        (
            "idle for the default",
            &by_default,
            idle_for(300),
            R::Available,
        ),
        (
            "idle for less than the default",
            &by_default,
            idle_for(299),
            R::InLocalUse,
        ),
        ("held", &spec, held, R::InLocalUse),
        (
            "an agent that does not tell",
            &spec,
            LocalUse::default(),
            R::InLocalUse,
        ),
    ] {
        let (gpu_node, seen) = with_mode(spec, local);
        assert_eq!(
            decide(&gpu_node, &seen, now()).offer.reason,
            reason,
            "{case}"
        );
    }
    let (gpu_node, seen) = with_mode(&spec, idle_for(50));
    assert_eq!(decide(&gpu_node, &seen, now()).again_at, Some(ago(-10)));
}

#[test]
fn of_several_reasons_the_first_of_the_enumeration_is_given() {
    let cordoned = node(&json!({"unschedulable": true}), "True", Some("2"));
    expect(
        "cordoned and silent",
        &well(),
        Some(cordoned),
        None,
        OfferReason::NodeCordoned,
    );
    let drained = gpu_node(&json!({"mode": "Drained"}), &two_devices());
    let plain = node(&json!({}), "True", None);
    expect(
        "drained, no plugin",
        &drained,
        Some(plain),
        Some(fresh()),
        OfferReason::NoDevicePlugin,
    );
}

#[test]
fn every_condition_is_stated_from_the_first_pass() {
    let plan = decide(
        &gpu_node(&json!({}), &json!({})),
        &Observed::default(),
        now(),
    );
    let stated: Vec<&str> = plan.facts.iter().map(|fact| fact.condition).collect();
    assert_eq!(stated, status::OWNER.conditions);
}

#[test]
fn reporting_says_what_is_wrong_with_the_agent() {
    let cases = [
        (json!({}), None, Status::False, "AgentMissing"),
        (two_devices(), Some(ago(31)), Status::False, "AgentSilent"),
        (json!({}), Some(ago(1)), Status::False, "NvmlUnavailable"),
        (
            json!({"agent": agent("LibraryMissing")}),
            Some(ago(1)),
            Status::False,
            "NvmlUnavailable",
        ),
        // NVML works and shows nothing.
        (
            json!({"agent": agent("NoDevices")}),
            Some(ago(1)),
            Status::True,
            "AgentReporting",
        ),
        (two_devices(), Some(ago(1)), Status::True, "AgentReporting"),
    ];
    for (status, heartbeat, holds, reason) in cases {
        let plan = decide(
            &gpu_node(&json!({}), &status),
            &seen(Some(sound_node()), heartbeat),
            now(),
        );
        assert_eq!(stated(&plan, "Reporting"), (holds, reason));
    }
    let blind = gpu_node(&json!({}), &json!({"agent": agent("LibraryMissing")}));
    let plan = decide(&blind, &all_well(), now());
    assert_eq!(words(&plan, "Reporting"), "LibraryMissing: dlopen failed");
}

#[test]
fn health_is_unknown_while_nobody_looks_and_names_the_sick_otherwise() {
    let devices = |health: &[&str]| {
        let devices: Vec<Value> = health
            .iter()
            .enumerate()
            .map(|(n, h)| device(&format!("GPU-{n}"), h))
            .collect();
        gpu_node(
            &json!({}),
            &json!({"agent": agent("Ok"), "devices": devices}),
        )
    };
    for (health, holds, reason, message) in [
        (
            vec!["Healthy", "Healthy"],
            Status::True,
            "AllDevicesHealthy",
            "every GPU is healthy",
        ),
        (
            vec!["Healthy", "Degraded"],
            Status::True,
            "AllDevicesHealthy",
            "every GPU works; to be watched: GPU-1",
        ),
        (
            vec!["Healthy", "Unhealthy"],
            Status::False,
            "SomeDevicesUnhealthy",
            "not healthy: GPU-1 (GpuLost); the others are on offer",
        ),
        (
            vec!["Unhealthy"],
            Status::False,
            "NoHealthyDevices",
            "no GPU is healthy: GPU-0 (GpuLost)",
        ),
        (vec![], Status::Unknown, "NoDevices", "NVML shows no GPU"),
    ] {
        let plan = decide(&devices(&health), &all_well(), now());
        assert_eq!(stated(&plan, "Healthy"), (holds, reason));
        assert_eq!(words(&plan, "Healthy"), message);
    }
    let silent = seen(Some(sound_node()), Some(ago(60)));
    let plan = decide(&devices(&["Healthy"]), &silent, now());
    assert_eq!(stated(&plan, "Healthy"), (Status::Unknown, "AgentSilent"));

    let many = decide(&devices(&["Unhealthy"; 64]), &all_well(), now());
    assert!(words(&many, "Healthy").ends_with("GPU-3 (GpuLost) and 60 more"));
}

#[test]
fn without_a_chain_no_bond_is_asked_for() {
    let mut bound = all_well();
    bound.guarantee.backing.provider = Some(7);
    let plan = decide(&well(), &bound, now());
    assert_eq!(
        stated(&plan, "Bonded"),
        (Status::Unknown, "NoChainConfigured")
    );
    assert_eq!(plan.offer.state, OfferState::Offered);
    assert_eq!(plan.provider_id, Some(7));
}

fn provider() -> Provider {
    Provider {
        id: 7,
        chain: "anvil".into(),
        staker: alloy_primitives::Address::ZERO,
        operator: OPERATOR,
        session_epoch: 0,
        share: 1,
    }
}

fn guaranteed(bond: Bond, certificate: Result<(), CertificateFault>) -> Observed {
    let mut seen = all_well();
    seen.guarantee = Guarantee {
        backing: Backing {
            provider: Some(7),
            chain: None,
            bond,
        },
        certificate,
        vault: None,
    };
    seen
}

/// The node's GPUs stand on chain.
fn post(node: &mut GpuNode) {
    let status = node.status.as_mut().unwrap();
    status.provider_id = Some(provider().id);
    status.posted_devices = status.devices.iter().map(|d| d.uuid.clone()).collect();
}

#[test]
fn a_node_that_shows_a_gpu_which_is_not_stated_on_chain_is_not_offered() {
    let bonded = || guaranteed(Bond::InForce(provider()), Ok(()));
    let mut node = well();
    let plan = decide(&node, &bonded(), now());
    assert_eq!(plan.offer.reason, OfferReason::InventoryNotPosted);
    assert!(words(&plan, "Offered").contains("status.postedDevices"));
    post(&mut node);
    assert_eq!(
        decide(&node, &bonded(), now()).offer.reason,
        OfferReason::Available
    );
    node.status.as_mut().unwrap().devices[0].uuid = "GPU-swapped".to_owned();
    let plan = decide(&node, &bonded(), now());
    assert_eq!(plan.offer.reason, OfferReason::InventoryNotPosted);
}

#[test]
fn a_node_that_shows_a_gpu_which_another_one_shows_too_is_not_offered_until_only_one_does() {
    let mut disputed = all_well();
    disputed.rivals = BTreeSet::from(["node-b".to_owned()]);
    let plan = decide(&well(), &disputed, now());
    assert_eq!(plan.offer.reason, OfferReason::GpuClaimedTwice);
    assert!(words(&plan, "Offered").contains("node-b"));
    let plan = decide(&well(), &all_well(), now());
    assert_eq!(plan.offer.reason, OfferReason::Available);
}

#[test]
fn with_a_chain_a_node_is_offered_only_while_it_is_bonded_and_its_agents_key_certified() {
    let missing = |reason| Bond::Missing(reason, "why".to_owned());
    let bonded = || Bond::InForce(provider());
    for (bond, certificate, holds, reason, offer) in [
        (
            bonded(),
            Ok(()),
            Status::True,
            "Bonded",
            OfferReason::Available,
        ),
        (
            bonded(),
            Err(CertificateFault::NoKey),
            Status::True,
            "Bonded",
            OfferReason::KeyNotCertified,
        ),
        (
            missing(GpuNodeReason::StakeTooSmall),
            Ok(()),
            Status::False,
            "StakeTooSmall",
            OfferReason::Unbonded,
        ),
        (
            missing(GpuNodeReason::NoBinding),
            Ok(()),
            Status::False,
            "NoBinding",
            OfferReason::Unbonded,
        ),
        (
            missing(GpuNodeReason::ChainUnavailable),
            Ok(()),
            Status::Unknown,
            "ChainUnavailable",
            OfferReason::Unbonded,
        ),
    ] {
        let mut node = well();
        post(&mut node);
        let plan = decide(&node, &guaranteed(bond, certificate), now());
        assert_eq!(stated(&plan, "Bonded"), (holds, reason));
        assert_eq!(plan.offer.reason, offer, "{reason}");
        if offer == OfferReason::Unbonded {
            assert_eq!(words(&plan, "Offered"), "why");
        }
    }
}

#[test]
fn what_ails_the_node_itself_comes_before_its_bond() {
    let drained = gpu_node(&json!({"mode": "Drained"}), &two_devices());
    let unbonded = Bond::Missing(GpuNodeReason::NoBinding, String::new());
    let plan = decide(&drained, &guaranteed(unbonded, Ok(())), now());
    assert_eq!(plan.offer.reason, OfferReason::Drained);
}

#[test]
fn the_next_look_is_exactly_when_time_alone_changes_the_answer() {
    let ok = well();
    let deadline = ago(5) + Terms::default().silent_after;
    assert_eq!(decide(&ok, &all_well(), now()).again_at, Some(deadline));
    assert_eq!(
        offer(
            &ok,
            Some(&sound_node()),
            Terms::default().is_silent(Some(ago(5)), deadline),
            &Guarantee::default(),
            &ModeSight::default(),
            deadline
        ),
        Err(OfferReason::AgentSilent)
    );

    // A silent agent makes itself heard; no timer is needed.
    let silent = seen(Some(sound_node()), Some(ago(60)));
    assert_eq!(decide(&ok, &silent, now()).again_at, None);

    let span =
        |from: i64, to: i64| json!({"from": ago(from).to_string(), "to": ago(to).to_string()});
    for (spans, expected) in [
        (json!([span(-7, -20)]), Some(ago(-7))),
        (json!([span(7, -9)]), Some(ago(-9))),
        (json!([span(20, 10)]), Some(deadline)),
        (json!([span(-7, -20), span(3, -2)]), Some(ago(-2))),
    ] {
        let node = gpu_node(&json!({"maintenance": spans}), &two_devices());
        assert_eq!(
            decide(&node, &all_well(), now()).again_at,
            expected,
            "{spans}"
        );
    }
}

#[test]
fn what_a_pass_writes_the_next_pass_does_not_write_again() {
    let mut gpu_node = well();
    let plan = decide(&gpu_node, &all_well(), now());
    let written = status::desired(&gpu_node, &plan, false, now());
    let merged = gridstake_crds::GpuNodeStatus {
        devices: gpu_node.status.as_ref().unwrap().devices.clone(),
        agent: gpu_node.status.as_ref().unwrap().agent.clone(),
        ..written.clone()
    };
    gpu_node.status = Some(merged);
    let later = now() + SignedDuration::from_secs(7);
    let mut still_well = all_well();
    still_well.heartbeat = Some(later);
    let plan = decide(&gpu_node, &still_well, later);
    assert_eq!(status::desired(&gpu_node, &plan, false, later), written);
}

#[test]
fn a_free_count_that_changed_alone_waits_and_any_other_change_takes_it_along() {
    let mut gpu_node = well();
    let plan = decide(&gpu_node, &all_well(), now());
    let mut present = status::desired(&gpu_node, &plan, false, now());
    present.free = Some(2);
    present.devices = gpu_node.status.as_ref().unwrap().devices.clone();
    present.agent = gpu_node.status.as_ref().unwrap().agent.clone();
    gpu_node.status = Some(present);

    assert_eq!(status::desired(&gpu_node, &plan, true, now()).free, Some(2));
    assert_eq!(
        status::desired(&gpu_node, &plan, false, now()).free,
        Some(1)
    );

    let silent = decide(&gpu_node, &seen(Some(sound_node()), Some(ago(60))), now());
    assert_eq!(
        status::desired(&gpu_node, &silent, true, now()).free,
        Some(1)
    );
}

#[test]
fn reputation_and_stability_are_written_as_they_are_known_and_stay_while_they_are_not() {
    let mut gpu_node = gpu_node(&json!({}), &two_devices());
    let mut seen = all_well();
    let known = Known::default();
    let uuids = ["GPU-0", "GPU-1"].into_iter();
    seen.appraisal = known.appraise(Some(Owner::Nobody), uuids);
    let write = |gpu_node: &GpuNode, seen: &Observed| {
        let plan = decide(gpu_node, seen, now());
        status::desired(gpu_node, &plan, false, now())
    };
    let written = write(&gpu_node, &seen);
    assert_eq!(written.reputation, Some(500));
    assert_eq!(written.reputation_terms.len(), 2);
    assert_eq!(written.stability.map(|s| s.permille), Some(1000));

    let present = gpu_node.status.get_or_insert_default();
    present.reputation = written.reputation;
    present
        .reputation_terms
        .clone_from(&written.reputation_terms);
    present.stability = written.stability;
    seen.appraisal = None;
    let kept = write(&gpu_node, &seen);
    assert_eq!(
        (kept.reputation, kept.reputation_terms, kept.stability),
        (
            written.reputation,
            written.reputation_terms,
            written.stability
        )
    );
    // Nobody answers for it any more.
    seen.appraisal = known.appraise(None, ["GPU-0"].into_iter());
    let without = write(&gpu_node, &seen);
    assert_eq!((without.reputation, without.stability), (None, None));
    assert!(without.reputation_terms.is_empty());
}

#[test]
fn how_its_owner_is_cut_is_written_as_placement_settled_it_and_stays_while_that_is_not_known() {
    let mut gpu_node = gpu_node(&json!({}), &two_devices());
    let mut seen = all_well();
    let mut written = |seen: &Observed| {
        let plan = decide(&gpu_node, seen, now());
        let written = status::desired(&gpu_node, &plan, true, now()).owner_cut;
        let present = gpu_node.status.get_or_insert_default();
        present.owner_cut.clone_from(&written);
        written
    };
    assert_eq!(written(&seen), None);
    let cut = OwnerCut {
        level: "200".to_owned(),
        sum: "900".to_owned(),
    };
    seen.owner_cut = Some(CutSeen(Some(cut.clone())));
    assert_eq!(written(&seen), Some(cut.clone()));
    seen.owner_cut = None;
    assert_eq!(written(&seen), Some(cut));
    seen.owner_cut = Some(CutSeen(None));
    assert_eq!(written(&seen), None);
}
