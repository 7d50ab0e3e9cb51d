//! Facts about [`super`], on a cluster of which everything is known.

use std::{
    sync::atomic::{AtomicI64, Ordering},
    time::Duration,
};

use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::{
    super::{api_server::Server, key::Owner, standing::Appraisal},
    *,
};
use crate::{
    caches::Caches, chain::Chains, controllers::incident, events::Events, failover, health::Health,
    leader::Leadership, metrics::Metrics, payer::Payers, settlement::Lanes,
};

/// 2026-01-01, the begin of a minute.
const BEGIN: i64 = 1_767_225_600;

static CLOCK: AtomicI64 = AtomicI64::new(0);

fn now() -> Timestamp {
    Timestamp::from_second(CLOCK.load(Ordering::SeqCst)).unwrap()
}

fn at(second: i64) -> String {
    Timestamp::from_second(BEGIN + second).unwrap().to_string()
}

fn gpu_node(name: &str, spec: &Value, uuid: &str, health: &str) -> Value {
    json!({
        "apiVersion": "gridstake.dev/v1alpha1", "kind": "GpuNode", "metadata": {"name": name}, "spec": spec,
        "status": {"devices": [{"uuid": uuid, "index": 0, "model": "NVIDIA L4", "memoryMiB": 23034,
            "computeCapability": "8.9", "health": health}]},
    })
}

fn heartbeat(node: &str, second: i64) -> Value {
    json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": {"name": format!("agent-{node}"), "namespace": "system"},
        "spec": {"holderIdentity": node, "renewTime": format!("{}.000000Z", at(second).trim_end_matches('Z'))},
    })
}

fn record() -> Value {
    json!({
        "apiVersion": "gridstake.dev/v1alpha1", "kind": "UsageRecord", "metadata": {"name": "u-1-0-0", "namespace": "system"},
        "spec": {"job": {"namespace": "n", "name": "j", "uid": "u"}, "attempt": 1, "member": 0, "slice": 0,
            "podName": "j-1-0", "nodeName": "well", "gpuCount": 1},
        "status": {
            "evidence": {"podUid": "p", "key": "0x52908400098527886E0F7030069857D2E4169EE7", "devices": [{"uuid": "GPU-well"}]},
            "sealed": {"startMs": 0, "endMs": 600_000, "gpuMillis": 600_000, "cause": "MemberEnded",
                "receiptHash": format!("0x{}", "0".repeat(64))},
            "conditions": [{"type": "Sealed", "status": "True", "reason": "Sealed", "message": "",
                "lastTransitionTime": at(-5)}],
        },
    })
}

fn incident() -> Value {
    json!({
        "apiVersion": "gridstake.dev/v1alpha1", "kind": "Incident", "metadata": {"name": "i"},
        "spec": {
            "offence": "DowntimeDuringJob", "subject": {"nodeName": "elsewhere", "devices": ["GPU-blamed"]},
            "from": at(-1), "to": at(-1), "verdict": "Host", "evidenceHash": format!("0x{}", "0".repeat(64)),
            "summary": "s", "sanction": "Repair",
        },
    })
}

async fn keeper(server: &Server) -> (Keeper, JoinSet<()>) {
    let client = server.client();
    let (health, metrics, mut watches) =
        (Health::default(), Metrics::new().unwrap(), JoinSet::new());
    let caches = Caches::start(
        &client,
        "system",
        failover::Terms::default(),
        &health,
        &metrics,
        &mut watches,
    );
    tokio::time::timeout(Duration::from_secs(30), caches.filled())
        .await
        .unwrap();
    let context = Context {
        events: Events::new(client.clone(), "test"),
        client,
        namespace: "system".to_owned(),
        caches,
        chains: Chains::new(vec![]),
        identity: "test".to_owned(),
        lanes: Lanes::new(vec![]).unwrap(),
        archive: None,
        incidents: incident::open::Terms::default(),
        preemption: crate::controllers::reclaim::preempt::Terms::default(),
        canaries: crate::controllers::canary::Terms::default(),
        fair_share_half_life: crate::scheduler::fair_share::HalfLife::default(),
        owner_cap: crate::scheduler::owner_cap::OwnerCap::default(),
        quarantine: crate::controllers::gpu_node::quarantine::Terms::default(),
        rehearsals: crate::controllers::compute_job::rehearsals::Rehearsals::default(),
        recent_fleet: crate::controllers::compute_job::recent_fleet::RecentFleet::default(),
        recent_starts: crate::controllers::compute_job::recent_starts::RecentStarts::default(),
        untold: crate::controllers::compute_job::untold::Untold::default(),
        precedence: crate::precedence::Precedence::default(),
        payers: Payers::default(),
        settlement_interval: Duration::from_hours(1),
        metrics,
        health,
        leadership: Leadership::uncontested(),
        now,
    };
    (Keeper::new(context), watches)
}

fn appraisal(keeper: &Keeper, uuid: &str) -> Appraisal {
    let known = keeper.context.caches.standings().known().unwrap();
    known
        .appraise(Some(Owner::Nobody), std::iter::once(uuid))
        .unwrap()
}

/// Score, experience, incidents, gaps.
fn terms(keeper: &Keeper, uuid: &str) -> (u32, u32, u32, u32) {
    let found = appraisal(keeper, uuid);
    let terms = &found.terms[0];
    (terms.score, terms.experience, terms.incidents, terms.gaps)
}

#[tokio::test]
async fn records_incidents_and_minutes_make_the_reputation_of_the_gpus_that_they_concern() {
    let none = json!({});
    let maintenance = json!({"maintenance": [{"from": at(-60), "to": at(3600)}]});
    let nodes = [
        ("well", &none, "Healthy", 110),
        ("blamed", &none, "Degraded", 110),
        ("broken", &none, "Unhealthy", 110),
        ("silent", &none, "Healthy", 50),
        ("announced", &maintenance, "Unhealthy", 110),
        ("drained", &json!({"mode": "Drained"}), "Unhealthy", 110),
        (
            "closed",
            &json!({"mode": "Scheduled", "windows": [{"cron": "0 12 * * *", "duration": "1h"}]}),
            "Unhealthy",
            110,
        ),
        (
            "open",
            &json!({"mode": "Scheduled", "windows": [{"cron": "0 0 * * *", "duration": "1h"}]}),
            "Unhealthy",
            110,
        ),
    ];
    let server = Server::default()
        .listing(
            "gpunodes",
            nodes
                .iter()
                .map(|(name, spec, health, _)| gpu_node(name, spec, &format!("GPU-{name}"), health))
                .collect(),
        )
        .listing(
            "leases",
            nodes
                .iter()
                .map(|(name, .., second)| heartbeat(name, *second))
                .collect(),
        )
        .listing("usagerecords", vec![record()])
        .listing("incidents", vec![incident()]);
    CLOCK.store(BEGIN + 1, Ordering::SeqCst);
    let (mut keeper, _watches) = keeper(&server).await;
    keeper.turn().await;
    assert_eq!(terms(&keeper, "GPU-well"), (510, 10, 0, 0));
    assert_eq!(terms(&keeper, "GPU-blamed"), (440, 0, 60, 0));
    assert_eq!(server.writes(), 1);

    // The minute in which it began was not watched from its begin, the next one is.
    for second in [61, 121] {
        CLOCK.store(BEGIN + second, Ordering::SeqCst);
        keeper.turn().await;
    }
    for (name, _, _, _) in nodes {
        let down = matches!(name, "broken" | "silent" | "open");
        let uuid = format!("GPU-{name}");
        assert_eq!(terms(&keeper, &uuid).3, u32::from(down), "{name}");
        let stability = appraisal(&keeper, &uuid).stability.unwrap();
        assert_eq!(stability.permille, 1000 - u32::from(down), "{name}");
    }
    assert_eq!(terms(&keeper, "GPU-well"), (510, 10, 0, 0));

    // Who takes over finds the same, and counts nothing again.
    let (mut next, _watches) = self::keeper(&server).await;
    next.turn().await;
    assert_eq!(terms(&next, "GPU-well"), (510, 10, 0, 0));
    assert_eq!(terms(&next, "GPU-broken"), (499, 0, 0, 1));
}
