//! Facts about draining.

use super::*;
use crate::explain::node::tests::job;

fn node(mode: &str, before: Option<&str>) -> GpuNode {
    let annotations = before.map_or(
        json!({}),
        |mode| json!({(ANNOTATION_MODE_BEFORE_DRAIN): mode}),
    );
    serde_json::from_value(json!({
        "apiVersion": "gridstake.dev/v1alpha1", "kind": "GpuNode",
        "metadata": {"name": "n1", "annotations": annotations, "resourceVersion": "42"},
        "spec": {"mode": mode},
    }))
    .unwrap()
}

/// The node with the plan's patch merged into it.
fn after(node: &GpuNode, undo: bool) -> GpuNode {
    let Plan::Set { patch, .. } = plan(node, undo).unwrap() else {
        panic!("nothing to be done");
    };
    let mut object = serde_json::to_value(node).unwrap();
    object["spec"]["mode"] = patch["spec"]["mode"].clone();
    let memory = &patch["metadata"]["annotations"][ANNOTATION_MODE_BEFORE_DRAIN];
    if memory.is_null() {
        object["metadata"]["annotations"] = json!({});
    } else {
        object["metadata"]["annotations"][ANNOTATION_MODE_BEFORE_DRAIN] = memory.clone();
    }
    serde_json::from_value(object).unwrap()
}

#[test]
fn a_node_that_is_drained_and_put_back_is_as_it_was() {
    for mode in ["Always", "IdleOnly", "Scheduled"] {
        let before = node(mode, None);
        let drained = after(&before, false);
        assert_eq!(drained.spec.mode, OfferMode::Drained);
        assert_eq!(after(&drained, true), before);
    }
}

#[test]
fn what_is_written_holds_only_while_the_node_is_as_it_was_read() {
    let Plan::Set { patch, .. } = plan(&node("Always", None), false).unwrap() else {
        panic!("nothing to be done");
    };
    assert_eq!(patch["metadata"]["resourceVersion"], "42");
    assert!(!patch.to_string().contains('\''), "{patch}");
}

#[test]
fn what_is_so_already_is_not_written_again() {
    for (mode, undo, expected) in [
        ("Drained", false, "node n1 is drained already"),
        ("Always", true, "node n1 is not drained: its mode is Always"),
    ] {
        let nothing = Plan::Nothing(expected.to_owned());
        assert_eq!(plan(&node(mode, Some("IdleOnly")), undo), Ok(nothing));
    }
}

#[test]
fn a_mode_that_nobody_has_remembered_is_not_guessed() {
    let words = plan(&node("Drained", None), true).unwrap_err();
    assert!(
        words.contains("choose one: kubectl patch gpunode n1"),
        "{words}"
    );
    for bad in ["Drained", "always", ""] {
        let words = plan(&node("Drained", Some(bad)), true).unwrap_err();
        assert!(words.contains("no mode to go back to"), "{words}");
    }
}

#[test]
fn before_it_is_done_one_is_told_what_happens_to_jobs() {
    let on = jobs_on("n1", &[job("train", &["n1"], &json!([]))]);
    let drain = |jobs| question("n1", OfferMode::Always, OfferMode::Drained, jobs);
    assert_eq!(
        drain(Some(on.as_slice())),
        "Change node n1 from mode Always to Drained? It gets no new jobs. 1 job is on it and will finish."
    );
    assert!(drain(Some(&[])).ends_with("No job runs on it."));
    assert!(drain(None).ends_with("Jobs that run on it finish."));
    assert!(
        question("n1", OfferMode::Drained, OfferMode::Always, None)
            .ends_with("It is offered to jobs again.")
    );
}

#[test]
fn the_jobs_that_are_still_on_it_are_listed() {
    let on = jobs_on("n1", &[job("train", &["n1"], &json!([]))]);
    let text = still_there(Some(&on));
    assert_eq!(
        text,
        "Still on it; they finish:\n  JOB           ATTEMPT  MEMBERS  GPUS  SINCE\n  team-a/train  1        1        2     2027-01-31T20:00:00Z"
    );
    assert_eq!(still_there(Some(&[])), "no job is on it");
}

#[test]
fn no_pause_is_longer_than_the_time_that_is_left() {
    for (until, seconds) in [
        (None, 5),
        (Some(100), 5),
        (Some(12), 2),
        (Some(10), 0),
        (Some(9), 0),
    ] {
        assert_eq!(pause(10, until), Duration::from_secs(seconds), "{until:?}");
    }
}
