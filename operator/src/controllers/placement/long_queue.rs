//! What a pass over a long queue costs, apart from reading the caches and writing: run it with
//! `cargo test --release --lib -- --ignored long_queue --nocapture`.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

use gridstake_crds::ComputeJob;
use k8s_openapi::jiff::Timestamp;

use super::{
    decide,
    shapes::{Answers, Shape, Shapes},
};
use crate::scheduler::{
    self, JobUid, PodFacts, Resources, Snapshot, SnapshotInputs, explain,
    fair_share::{Payer, Ranks},
    fixtures::{node, seed},
    holds::{self, Release},
    queue::Queue,
    request::OfNamespace,
};

const JOBS: u32 = 20_000;
const SHAPES: u32 = 8;
const PAYERS: u32 = 50;
const NODES: u32 = 1_000;

fn job(number: u32) -> (JobUid, ComputeJob) {
    let mut uid = [0; 16];
    uid[..4].copy_from_slice(&number.to_be_bytes());
    let uid = JobUid(uid);
    let job = serde_json::from_value(serde_json::json!({
        "apiVersion": "gridstake.dev/v1alpha1", "kind": "ComputeJob",
        "metadata": {"name": format!("j{number}"), "namespace": format!("n{}", number % PAYERS), "uid": uid.to_string(), "generation": 1},
        "spec": {
            "gpu": {"count": 1 + number % SHAPES}, "timeouts": {"run": "1h"},
            "template": {"spec": {"containers": [{"name": "a", "image": "a", "command": ["sh", "-c", format!("train {number}")]}]}},
        },
    }));
    (uid, job.unwrap())
}

/// A fleet of which every GPU is taken.
fn full() -> Snapshot {
    let name = |number: u32| format!("node-{number:05}");
    let pods = (0..NODES).map(|number| PodFacts {
        node: Some(name(number)),
        ended: false,
        resources: Resources {
            gpus: 8,
            ..Resources::default()
        },
        member: None,
    });
    Snapshot::assemble(SnapshotInputs {
        pods: pods.collect(),
        nodes: (0..NODES).map(|number| node(&name(number), 8)).collect(),
        ..SnapshotInputs::default()
    })
}

#[test]
#[ignore = "it measures and asserts nothing about time"]
fn a_pass_over_twenty_thousand_jobs_of_eight_shapes() {
    let jobs: BTreeMap<JobUid, ComputeJob> = (0..JOBS).map(job).collect();
    let snapshot = full();
    let running: Vec<Release> = Vec::new();
    let mut shapes = Shapes::default();
    for pass in ["first", "second"] {
        let begun = Instant::now();
        let entries = jobs.values().map(|job| {
            let namespace = job.metadata.namespace.clone().unwrap();
            decide::queue_entry(job, 0, Payer::Namespace(namespace))
        });
        let mut queue = Queue::new(entries, Ranks::default());
        let (mut answers, mut waiting) = (Answers::default(), Vec::new());
        let mut scans = 0;
        while let Some(entry) = queue.next_job() {
            let job = &jobs[&entry.job_uid];
            let asked = shapes.of(entry.job_uid, job).unwrap();
            let request = decide::next_request(
                job,
                &asked.request,
                OfNamespace::default(),
                BTreeSet::new(),
                Timestamp::UNIX_EPOCH,
            );
            let shape = Shape::new(&asked, &request, false);
            assert!(answers.is_satisfiable(&shape, &snapshot, &request));
            if !answers.is_refused(&shape) {
                scans += 1;
                assert!(scheduler::linear::place(&snapshot, &request, &seed()).is_err());
                assert!(holds::hold(&snapshot, &request, &running, 0).is_none());
                answers.refuse(shape);
            }
            waiting.push(entry);
        }
        let served = begun.elapsed();
        let order = Queue::new(waiting, queue.into_ranks()).order();
        for entry in &order {
            let job = &jobs[&entry.job_uid];
            let asked = shapes.of(entry.job_uid, job).unwrap();
            let request = decide::next_request(
                job,
                &asked.request,
                OfNamespace::default(),
                BTreeSet::new(),
                Timestamp::UNIX_EPOCH,
            );
            let shape = Shape::new(&asked, &request, false);
            let text = answers.words(&shape, true, || {
                let rejections =
                    scheduler::linear::place(&snapshot, &request, &seed()).unwrap_err();
                explain::waiting_in_full(&snapshot, &request, &rejections, None)
            });
            let fact = decide::waits(
                gridstake_crds::compute_job::ComputeJobReason::InsufficientCapacity,
                &text,
            );
            assert!(decide::urgency(job, Some(&fact), None).is_some());
        }
        assert_eq!((order.len(), scans), (jobs.len(), SHAPES as usize));
        println!(
            "{pass} pass: {JOBS} jobs of {SHAPES} shapes and {PAYERS} payers on {NODES} full nodes: served in {served:?}, worded in {:?}, {scans} scans to place",
            begun.elapsed().saturating_sub(served)
        );
    }
    let begun = Instant::now();
    let (uid, job) = jobs.first_key_value().unwrap();
    let asked = shapes.of(*uid, job).unwrap();
    for _ in 0..100 {
        assert!(scheduler::linear::place(&snapshot, &asked.request, &seed()).is_err());
        assert!(explain::satisfiable(&snapshot, &asked.request).is_ok());
    }
    println!(
        "a scan for one job, placing and satisfiability: {:?}",
        begun.elapsed() / 100
    );
}
