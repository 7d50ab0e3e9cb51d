//! Facts about the table of next steps.

use clap::CommandFactory as _;
use gridstake_crds::compute_job::{ComputeJobCondition, VerdictReason};

use super::*;
use crate::cli::Cli;

const CONDITIONS: &str = include_str!("../../../docs/conditions.md");

/// The values of a table of docs/conditions.md.
fn documented(heading: &str) -> Vec<&'static str> {
    let section = CONDITIONS
        .split_once(&format!("\n### {heading}\n"))
        .map(|(_, after)| after.split("\n#").next().unwrap())
        .unwrap();
    section
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split('`').next())
        .collect()
}

/// All next steps of an enum, and that each documented reason is in it.
fn steps<E: Reason>(heading: &str) -> Vec<&'static str> {
    let documented = documented(heading);
    assert!(!documented.is_empty(), "{heading}");
    for reason in &documented {
        assert!(value::<E>(reason).is_some(), "{heading}: {reason}");
    }
    assert_eq!(documented.len(), E::ALL.len(), "{heading}");
    E::ALL.iter().filter_map(|r| r.next_step()).collect()
}

fn all_steps() -> Vec<&'static str> {
    [
        steps::<ComputeJobReason>("ComputeJob: Reasons"),
        steps::<JobEndReason>("ComputeJob: Why a job ended"),
        steps::<AttemptEndReason>("ComputeJob: Why an attempt ended"),
        steps::<OfferReason>("GpuNode: Reasons of the offer"),
        steps::<GpuNodeReason>("GpuNode: Reasons"),
        steps::<QuarantineReason>("GpuNode: Why a GPU or node is in quarantine"),
        steps::<DeviceReason>("GpuNode: Reasons of a device's health"),
        steps::<StakeBindingReason>("StakeBinding: Reasons"),
        steps::<UsageRecordReason>("UsageRecord: Reasons"),
        steps::<IncidentReason>("Incident: Reasons"),
    ]
    .concat()
}

#[test]
fn every_documented_reason_is_in_the_table_and_says_something_or_nothing() {
    for step in all_steps() {
        assert!(!step.is_empty() && !step.ends_with('.'), "{step}");
    }
}

#[test]
fn every_command_of_ours_that_a_next_step_names_exists() {
    let command = Cli::command();
    let mut named = 0;
    for step in all_steps() {
        for after in step.split("kubectl gridstake ").skip(1) {
            let name: String = after.chars().take_while(char::is_ascii_lowercase).collect();
            assert!(command.find_subcommand(&name).is_some(), "{step}");
            named += 1;
        }
    }
    assert!(named >= 3, "{named}");
}

#[test]
fn a_reason_of_a_newer_operator_calls_for_a_newer_plugin() {
    let step = next_step::<ComputeJobReason>("NotInventedYet").unwrap();
    assert!(step.contains("use the plugin of the operator's version"));
    assert_eq!(next_step::<ComputeJobReason>("Running"), None);
}

#[test]
fn meanings_are_those_of_the_documentation() {
    assert_eq!(
        meaning(ComputeJobCondition::Scheduled),
        "The newest attempt has its nodes."
    );
    assert_eq!(
        meaning(VerdictReason::NodeShutdown),
        "The node was shut down."
    );
}
