//! The frame of the stories itself: without a cluster they fail and say what to do.

use std::process::Command;

#[test]
fn without_a_cluster_a_story_fails_and_says_how_to_get_one() {
    let this = std::env::current_exe().unwrap();
    let output = Command::new(this)
        .args(["--ignored", "--exact", "a_story_that_only_enters_the_world"])
        .env_remove("KUBECONFIG")
        .output()
        .unwrap();
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(!output.status.success(), "it passed: {printed}");
    assert!(printed.contains("make test-e2e"), "{printed}");
}

#[test]
#[ignore = "told by the test above, without a cluster"]
fn a_story_that_only_enters_the_world() -> anyhow::Result<()> {
    gridstake_e2e::story::story(async |_, _| Ok(()))
}
