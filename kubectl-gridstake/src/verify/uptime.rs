//! The log of uptime: from the archive, against what the lane's batches have stated about it.

use gridstake_ledger::{
    archive::{
        self,
        uptime::{decode, index_path},
    },
    statement::UPTIME,
    uptime::{EPOCH_SECONDS, EpochUptime, epoch_of},
    verify::{
        Fault, Finding,
        uptime::{self, Claim, Extent, Summary},
    },
    week::Week,
};

use super::{
    answers::Answers,
    source::{Source, SourceError},
};

/// Epochs in a row without a file after which the log is taken to begin: no operator watched for so long, or it is lost. A
/// week of them.
const LONGEST_GAP: u32 = 1008;

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Uptime {
    /// Nothing was stated about the log.
    Unstated,
    /// The log is what was stated.
    Verified(Summary),
}

/// What the chain says about the log, in the order of the batches.
fn claims(answers: &Answers) -> Vec<Claim> {
    let of_batch = |batch: &super::answers::SettledBatch| {
        let about = batch.statements.iter().filter(|said| said.kind == UPTIME);
        about
            .map(|said| Claim {
                batch: batch.sequence,
                epoch: said.number,
                head: said.content,
            })
            .collect::<Vec<_>>()
    };
    answers.batches.iter().flat_map(of_batch).collect()
}

/// Verifies the log as far as it was stated, or what of it lies in a week. The inner error is what is wrong.
pub async fn verify(
    source: &Source,
    answers: &Answers,
    week: Option<Week>,
) -> Result<Result<Uptime, Box<Finding>>, SourceError> {
    let mut claims = claims(answers);
    let mut first = 0;
    if let Some(week) = week {
        first = epoch_of(week.from());
        let end = epoch_of(week.until());
        // What comes first after the week covers the rest of it.
        let after = claims.iter().filter(|claim| claim.epoch >= end);
        let last = after.map(|claim| claim.epoch).min().unwrap_or(u32::MAX);
        claims.retain(|claim| (first..=last).contains(&claim.epoch));
    }
    let Some(newest) = claims.iter().map(|claim| claim.epoch).max() else {
        return Ok(Ok(Uptime::Unstated));
    };
    let lane = answers.lane_id();
    let wrong = |epoch: u32, found: String| {
        Box::new(Finding {
            file: index_path(lane, epoch),
            at: 0..0,
            fault: Fault::Uptime,
            found,
            expected: "what the lane's batches have stated".to_owned(),
        })
    };
    let mut epochs: Vec<EpochUptime> = Vec::new();
    let mut gap = 0;
    for number in (first..=newest).rev() {
        let Some(entry) = source.read(&index_path(lane, number)).await? else {
            gap += 1;
            if gap > LONGEST_GAP {
                break;
            }
            continue;
        };
        gap = 0;
        let Some(address) = archive::read_index_entry(&entry) else {
            return Ok(Err(wrong(number, "an index that names no file".to_owned())));
        };
        let file = source.read(&archive::object_path(address)).await?;
        let Some(file) = file.filter(|file| archive::address(file) == address) else {
            let found = format!("no file whose hash is {address}");
            return Ok(Err(wrong(number, found)));
        };
        match decode(&file) {
            Ok((of, epoch)) if of == lane && epoch.epoch == number => epochs.push(epoch),
            Ok(_) => return Ok(Err(wrong(number, "another lane or epoch".to_owned()))),
            Err(error) => return Ok(Err(wrong(number, error.to_string()))),
        }
    }
    epochs.reverse();
    let extent = week.map_or(Extent::Whole, |week| Extent::Part {
        until: epoch_of(week.until()),
    });
    match uptime::check(&epochs, &claims, extent) {
        Ok(summary) if summary.epochs == 0 => Ok(Ok(Uptime::Unstated)),
        Ok(summary) => Ok(Ok(Uptime::Verified(summary))),
        Err(fault) => {
            let epoch = match &fault {
                uptime::Fault::Link { epoch, .. }
                | uptime::Fault::Missing { epoch, .. }
                | uptime::Fault::Stated { epoch, .. } => *epoch,
            };
            Ok(Err(wrong(epoch, fault.to_string())))
        }
    }
}

/// The lines that tell people of it.
pub fn lines(uptime: &Uptime) -> Vec<String> {
    let Uptime::Verified(summary) = uptime else {
        return vec!["uptime: nothing was stated about it".to_owned()];
    };
    let time = |epoch: u32| u64::from(epoch) * EPOCH_SECONDS;
    let mut lines = vec![match summary.span {
        Some((first, last)) => format!(
            "uptime: {} epochs of 10 min, from {} to {} (Unix s); stated up to epoch {}",
            summary.epochs,
            time(first),
            time(last) + EPOCH_SECONDS,
            summary.stated.unwrap_or(last)
        ),
        None => "uptime: no epoch".to_owned(),
    }];
    if summary.anew > 0 {
        lines.push(format!(
            "uptime: the log begins anew {} times",
            summary.anew
        ));
    }
    for (node, minutes) in &summary.nodes {
        lines.push(format!(
            "uptime of {node}: up in {} of {} minutes in which it was watched",
            minutes.up, minutes.watched
        ));
    }
    lines
}

/// The same for programs.
pub fn json(uptime: &Uptime) -> serde_json::Value {
    let Uptime::Verified(summary) = uptime else {
        return serde_json::Value::Null;
    };
    let nodes: serde_json::Map<String, serde_json::Value> = summary
        .nodes
        .iter()
        .map(|(node, minutes)| {
            let said =
                serde_json::json!({"watchedMinutes": minutes.watched, "upMinutes": minutes.up});
            (node.clone(), said)
        })
        .collect();
    serde_json::json!({
        "epochs": summary.epochs,
        "firstEpoch": summary.span.map(|(first, _)| first),
        "lastEpoch": summary.span.map(|(_, last)| last),
        "statedEpoch": summary.stated,
        "begunAnew": summary.anew,
        "nodes": nodes,
    })
}
