//! `kubectl gridstake explain`, `top`, `drain` and `quote` as a program: an API server that answers from a table, and what a shell is
//! told.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs, reason = "tests")]

mod api_server;

use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

use crate::api_server::ApiServer;

const JOBS: &str = "/apis/gridstake.dev/v1alpha1/computejobs";
const NODES: &str = "/apis/gridstake.dev/v1alpha1/gpunodes";
const BINDINGS: &str = "/apis/gridstake.dev/v1alpha1/stakebindings";
const INCIDENTS: &str = "/apis/gridstake.dev/v1alpha1/incidents";
const RECORDS: &str = "/apis/gridstake.dev/v1alpha1/usagerecords";

fn run(server: &ApiServer, line: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_kubectl-gridstake"))
        .args(line.split(' '))
        .env("KUBECONFIG", server.kubeconfig())
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn out(output: &Output) -> String {
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn refusal(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stdout.is_empty());
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn node(mode: &str) -> Value {
    json!({
        "apiVersion": "gridstake.dev/v1alpha1", "kind": "GpuNode",
        "metadata": {"name": "n1", "resourceVersion": "42"},
        "spec": {"mode": mode, "pricing": {"perGpuSecond": "0.00072"}},
        "status": {
            "capacity": 4, "free": 2, "reputation": 1000,
            "offer": {"state": "Offered", "reason": "Available"},
            "conditions": [{
                "type": "Bonded", "status": "True", "reason": "NoChainConfigured", "message": "",
                "lastTransitionTime": "2027-01-01T00:00:00Z",
            }],
        },
    })
}

fn job(name: &str) -> Value {
    let zeros = format!("0x{}", "00".repeat(32));
    json!({
        "apiVersion": "gridstake.dev/v1alpha1", "kind": "ComputeJob",
        "metadata": {"name": name, "namespace": "team-a", "uid": "u-1"},
        "spec": {"gpu": {"count": 2}, "template": {}},
        "status": {
            "observedGeneration": 1,
            "placement": {
                "attempt": 1, "nodes": [{"member": 0, "node": "n1", "perGpuSecond": "0.00072"}],
                "decidedAt": "2027-01-31T20:00:00Z",
                "decision": {
                    "draw": "gridstake-draw/1", "blockHash": zeros, "previous": zeros, "hash": zeros, "snapshot": 1,
                    "candidates": 2, "totalWeight": "291271110", "drawn": ["7"],
                },
            },
        },
    })
}

#[test]
fn a_job_is_explained_with_the_weight_of_its_node() {
    let server = ApiServer::new();
    server.has(
        "/apis/gridstake.dev/v1alpha1/namespaces/team-a/computejobs/train",
        job("train"),
    );
    server.has(&format!("{NODES}/n1"), node("Always"));
    server.lists(BINDINGS, &[]);
    server.lists(RECORDS, &[]);
    for line in [
        "explain job team-a/train -o json",
        "explain job train -n team-a -o json",
    ] {
        let told: Value = serde_json::from_str(&out(&run(&server, line))).unwrap();
        assert_eq!(told["state"], "attempt 1 starts on n1");
        let draw = &told["placement"]["draws"][0];
        assert_eq!(draw["weight"]["weight"], 145_635_555);
        assert_eq!(draw["oddsPermille"], 500);
        assert_eq!(told["notRead"], json!([]));
    }
    let asked = server.asked();
    let records = asked.iter().find(|asked| asked.contains(RECORDS)).unwrap();
    assert!(
        records.contains("fieldSelector=spec.job.uid%3Du-1"),
        "{records}"
    );
}

#[test]
fn a_tenant_who_may_read_its_job_alone_is_told_what_is_missing() {
    let server = ApiServer::new();
    server.has(
        "/apis/gridstake.dev/v1alpha1/namespaces/team-a/computejobs/train",
        job("train"),
    );
    for path in [&format!("{NODES}/n1"), BINDINGS, RECORDS] {
        server.forbids(path);
    }
    let text = out(&run(&server, "explain job team-a/train"));
    for expected in [
        "ComputeJob team-a/train: attempt 1 starts on n1",
        "Not read: the weights of nodes: not for you",
        "Not read: the records of its use: not for you",
    ] {
        assert!(text.contains(expected), "{text}");
    }
}

#[test]
fn what_is_not_there_is_named_with_where_to_look() {
    let server = ApiServer::new();
    for (line, expected) in [
        (
            "explain job team-a/gone",
            "there is no ComputeJob gone: `kubectl get computejobs -n team-a` lists them",
        ),
        (
            "explain node gone",
            "there is no GpuNode gone: `kubectl get gpunodes` lists them",
        ),
        (
            "explain incident gone",
            "there is no Incident gone: `kubectl get incidents` lists them",
        ),
        (
            "drain gone --yes",
            "there is no GpuNode gone: `kubectl get gpunodes` lists them",
        ),
    ] {
        let words = refusal(&run(&server, line));
        assert!(words.contains(expected), "{words}");
    }
}

#[test]
fn a_node_is_explained_with_its_jobs_and_incidents() {
    let server = ApiServer::new();
    server.has(&format!("{NODES}/n1"), node("Always"));
    server.lists(BINDINGS, &[]);
    server.lists(INCIDENTS, &[]);
    server.lists(JOBS, &[job("a"), job("b"), job("c")]);
    let told: Value = serde_json::from_str(&out(&run(&server, "explain node n1 -o json"))).unwrap();
    let jobs: Vec<&Value> = told["jobs"]
        .as_array()
        .unwrap()
        .iter()
        .map(|job| &job["name"])
        .collect();
    assert_eq!(jobs, ["a", "b", "c"]);
    let asked = server.asked();
    assert!(
        asked
            .iter()
            .any(|asked| asked.contains("fieldSelector=spec.subject.nodeName%3Dn1")),
        "{asked:?}"
    );
}

#[test]
fn lists_are_read_page_by_page() {
    let server = ApiServer::new();
    server.lists(NODES, &[node("Always")]);
    server.lists(JOBS, &[job("a"), job("b"), job("c"), job("d"), job("e")]);
    server.forbids(RECORDS);
    let told: Value = serde_json::from_str(&out(&run(&server, "top -o json"))).unwrap();
    assert_eq!(told["namespaces"][0]["placed"], 5);
    assert_eq!(told["nodes"][0]["used"], 2);
    assert!(told.get("earnings").is_none());
    assert_eq!(told["notRead"], json!(["use and earnings: not for you"]));
    let pages = server
        .asked()
        .iter()
        .filter(|asked| asked.contains(JOBS))
        .count();
    assert_eq!(pages, 3);
}

#[test]
fn a_node_is_drained_only_if_that_is_confirmed() {
    let server = ApiServer::new();
    server.has(&format!("{NODES}/n1"), node("IdleOnly"));
    server.lists(JOBS, &[job("train")]);
    let words = refusal(&run(&server, "drain n1"));
    assert!(
        words.contains("Say --yes") && words.contains("1 job is on it"),
        "{words}"
    );
    let printed = out(&run(&server, "drain n1 --dry-run"));
    assert!(
        printed.starts_with("kubectl patch gpunode n1 --type merge"),
        "{printed}"
    );
    assert_eq!(server.patches(), [Value::Null; 0]);

    let text = out(&run(&server, "drain n1 --yes"));
    assert!(
        text.starts_with("node n1: mode Drained, before IdleOnly"),
        "{text}"
    );
    assert!(text.contains("team-a/train"), "{text}");
    let expected = json!({
        "metadata": {
            "annotations": {"gridstake.dev/mode-before-drain": "IdleOnly"},
            "resourceVersion": "42",
        },
        "spec": {"mode": "Drained"},
    });
    assert_eq!(server.patches(), [expected]);
}

#[test]
fn who_may_not_list_jobs_drains_and_does_not_wait() {
    let server = ApiServer::new();
    server.has(&format!("{NODES}/n1"), node("Always"));
    server.forbids(JOBS);
    let words = refusal(&run(&server, "drain n1 --yes --wait"));
    assert!(words.contains("leave --wait out"), "{words}");
    assert_eq!(server.patches(), [Value::Null; 0]);
    let text = out(&run(&server, "drain n1 --yes"));
    assert!(text.contains("may not be listed"), "{text}");
}

#[test]
fn a_wait_ends_when_no_job_is_left() {
    let server = ApiServer::new();
    server.has(&format!("{NODES}/n1"), node("Drained"));
    server.lists(JOBS, &[]);
    let output = run(&server, "drain n1 --wait --timeout 1h");
    assert_eq!(out(&output), "no job is on it\n");
    let words = String::from_utf8(output.stderr).unwrap();
    assert_eq!(words, "node n1 is drained already\n");
}

#[test]
fn a_wait_tells_which_jobs_it_waits_for_and_ends_when_they_are_gone() {
    let server = ApiServer::new();
    server.has(&format!("{NODES}/n1"), node("Always"));
    // What is asked, in turn: before anything is written, then twice while it waits.
    server.lists_in_turn(JOBS, vec![vec![job("train")], vec![job("train")], vec![]]);
    let output = run(&server, "drain n1 --yes --wait");
    assert_eq!(out(&output), "no job is on it\n");
    let words = String::from_utf8(output.stderr).unwrap();
    assert!(
        words.starts_with("node n1: mode Drained, before Always\nStill on it"),
        "{words}"
    );
    assert_eq!(words.matches("team-a/train").count(), 1, "{words}");
}

#[test]
fn a_wait_that_takes_too_long_says_that_the_node_is_drained() {
    let server = ApiServer::new();
    server.has(&format!("{NODES}/n1"), node("Always"));
    server.lists(JOBS, &[job("train")]);
    let words = refusal(&run(&server, "drain n1 --yes --wait --timeout 1s"));
    assert!(
        words.contains("the node is drained, and 1 job is still on it"),
        "{words}"
    );
    assert_eq!(server.patches().len(), 1);
}

#[test]
fn completion_needs_no_cluster() {
    let server = ApiServer::new();
    assert!(out(&run(&server, "completion bash")).contains("__complete"));
    assert_eq!(
        out(&run(&server, "__complete explain nod")),
        "node\tA GpuNode: whether it is offered, and if not what mends it; its GPUs, their faults and quarantines, its reputation term by term, what it weighs in the draw, the jobs on it and the incidents of it\n:4\n"
    );
    assert_eq!(server.asked(), [""; 0]);
}

/// A file with a job of 2 GPUs for an hour.
fn job_file(name: &str) -> std::path::PathBuf {
    let path = std::env::temp_dir().join(format!("gridstake-quote-{}-{name}", std::process::id()));
    let job = json!({
        "apiVersion": "gridstake.dev/v1alpha1", "kind": "ComputeJob",
        "metadata": {"name": "train", "namespace": "team-a"},
        "spec": {
            "gpu": {"count": 2}, "timeouts": {"run": "1h"},
            "template": {"spec": {"containers": [{"name": "c", "image": "i"}]}},
        },
    });
    std::fs::write(&path, job.to_string()).unwrap();
    path
}

/// A node with four GPUs, of which two are free.
fn node_with_gpus() -> Value {
    let mut node = node("Always");
    let device = |index: u32| {
        json!({
            "uuid": format!("GPU-{index}"), "index": index, "model": "NVIDIA H100 80GB HBM3", "memoryMiB": 81559,
            "computeCapability": "9.0", "health": "Healthy",
        })
    };
    node["status"]["devices"] = (0..4).map(device).collect();
    node
}

#[test]
fn a_job_is_quoted_on_what_the_cluster_offers_and_nothing_is_written() {
    let server = ApiServer::new();
    server.lists(NODES, &[node_with_gpus()]);
    server.lists(BINDINGS, &[]);
    server.lists(JOBS, &[job("running")]);
    server.lists(
        "/api/v1/nodes",
        &[json!({
            "apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"},
            "status": {"allocatable": {"cpu": "8", "memory": "32Gi", "pods": "110"}},
        })],
    );
    server.has(
        "/api/v1/namespaces/team-a",
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "team-a"}}),
    );
    let file = job_file("offers");
    let line = format!("quote -f {}", file.display());
    let told: Value =
        serde_json::from_str(&out(&run(&server, &format!("{line} -o json")))).unwrap();
    assert_eq!(
        (&told["fits"], &told["candidates"]),
        (&json!(true), &json!(1))
    );
    assert_eq!(told["cost"]["expectedPerGpuHour"], "2.592");
    assert_eq!(told["cost"]["expectedForRun"], "5.184");
    assert_eq!(told["wait"]["now"], true);
    assert_eq!(told["models"][0]["references"][0]["seller"], "Akash");
    let text = out(&run(&server, &line));
    assert!(text.contains("1/1 nodes can take a member now"), "{text}");
    assert_eq!(server.patches(), [Value::Null; 0]);
    std::fs::remove_file(file).unwrap();
}

#[test]
fn a_tenant_who_may_read_offers_alone_gets_a_quote_that_says_what_is_missing() {
    let server = ApiServer::new();
    server.lists(NODES, &[node_with_gpus()]);
    for path in [BINDINGS, JOBS, "/api/v1/nodes", "/api/v1/namespaces/team-a"] {
        server.forbids(path);
    }
    let file = job_file("tenant");
    let text = out(&run(&server, &format!("quote -f {}", file.display())));
    for expected in [
        "1/1 nodes can take a member now",
        "the queue may not be read",
        "the Nodes may not be read",
        "the labels and the chain of namespace team-a are not known",
    ] {
        assert!(text.contains(expected), "{text}");
    }
    std::fs::remove_file(file).unwrap();
}

#[test]
fn a_file_that_holds_no_job_is_named_with_what_would_be_right() {
    let server = ApiServer::new();
    for (line, expected) in [
        (
            "quote -f /no/such/file",
            "--filename: /no/such/file cannot be read",
        ),
        ("quote -f -", "--filename: it holds no ComputeJob"),
    ] {
        let words = refusal(&run(&server, line));
        assert!(words.contains(expected), "{words}");
    }
    assert_eq!(server.asked(), [""; 0]);
}
