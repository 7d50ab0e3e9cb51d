//! `report`: what a provider got in a week, made again from chain and archive, and held against what the lane has stated.
//!
//! | file | what |
//! |---|---|
//! | [`args`] | the command line |
//! | [`week`] | the sums, the pace at which the nodes pay for themselves, and how all of it is told; pure |
//! | this one | verifies the week, and reads energy from the archive and costs from the cluster |

pub mod args;
mod week;

use std::{collections::BTreeMap, process::ExitCode, time::Duration};

use gridstake_crds::GpuNode;
use gridstake_ledger::archive::{Content, Reader};
use kube::{Api, ResourceExt as _, api::ListParams};

use self::{
    args::{ReportArgs, ReportFormat},
    week::{Economics, Energy, NodeCosts, WeekReport},
};
use crate::{
    cli::{Output, VerifyArgs},
    cluster,
    error::{self, PluginError},
    money::place,
    output::{Format, Report as _, written},
    verify::{self, Checked, UNCHECKED, VerifyError, WRONG, source::SourceError},
};

/// After which time the cluster is not waited for: the report does not depend on it.
const PATIENCE: Duration = Duration::from_secs(2);

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
enum ReportError {
    #[error(transparent)]
    Plugin(#[from] PluginError),
    #[error(transparent)]
    Verify(#[from] VerifyError),
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error("--lane: name the cluster's lane, such as 7; who runs the operator knows it")]
    NoLane,
    #[error("the week has no sums: run `kubectl gridstake verify --week {0}`")]
    NoWeek(gridstake_ledger::week::Week),
}

/// Reports, and says how it ended: with 0 if what was stated is equal or nothing was stated yet, with 1 if it is wrong, with 2 if
/// it could not be checked.
pub fn run(args: &ReportArgs) -> ExitCode {
    match reported(args) {
        Ok(Ok(text)) => {
            println!("{text}");
            ExitCode::SUCCESS
        }
        Ok(Err(finding)) => {
            eprintln!("kubectl gridstake: NOT VERIFIED: {finding}");
            ExitCode::from(WRONG)
        }
        Err(error) => {
            eprintln!(
                "kubectl gridstake: could not report: {}",
                error::chain(&error)
            );
            ExitCode::from(UNCHECKED)
        }
    }
}

/// The report as it is printed; the inner error is what is wrong.
fn reported(args: &ReportArgs) -> Result<Result<String, String>, ReportError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(PluginError::Runtime)?;
    let verify_args = runtime.block_on(verify_args(args))?;
    let checked = match verify::checked(&verify_args) {
        Ok(Ok(checked)) => checked,
        Ok(Err((_, finding))) => return Ok(Err(finding.to_string())),
        // A week in which nothing was settled is an answer, too.
        Err(VerifyError::NoBatchOfWeek) => {
            return Ok(Ok(told(
                &WeekReport::nothing(args.week, args.provider),
                args.output,
            )?));
        }
        Err(error) => return Err(error.into()),
    };
    let earnings = checked
        .earnings
        .as_ref()
        .ok_or(ReportError::NoWeek(args.week))?;
    let energy = energy(&checked, args.provider)?;
    let economics = runtime.block_on(economics(args.provider));
    let report = WeekReport::of(
        earnings,
        args.provider,
        checked.answers.time,
        &energy,
        &economics,
    );
    Ok(Ok(told(&report, args.output)?))
}

fn told(report: &WeekReport, format: ReportFormat) -> Result<String, PluginError> {
    match format {
        ReportFormat::Table => Ok(report.text()),
        ReportFormat::Json => written(report, Format::Json),
        ReportFormat::Yaml => written(report, Format::Yaml),
        ReportFormat::Csv => Ok(report.csv()),
    }
}

/// The same week for `verify`.
async fn verify_args(args: &ReportArgs) -> Result<VerifyArgs, ReportError> {
    let (rpc, settlement, lane) = match (&args.chain_file, args.on.settlement) {
        (Some(_), Some(settlement)) => (None, settlement, None),
        _ => {
            let place = place::find(&args.on).await.map_err(PluginError::from)?;
            (Some(place.rpc), place.settlement, place.lane)
        }
    };
    Ok(VerifyArgs {
        archive: args.archive.clone(),
        rpc,
        chain_file: args.chain_file.clone(),
        save_chain: None,
        settlement,
        vault: None,
        lane: args.lane.or(lane).ok_or(ReportError::NoLane)?,
        record: None,
        batch: None,
        week: Some(args.week),
        lane_all: false,
        uptime: false,
        from_block: args.from_block,
        every_signature: false,
        output: Output::Text,
    })
}

/// The energy of the provider's slices that were paid in the week, by the archive: nothing on the chain commits to it.
fn energy(checked: &Checked, provider: u32) -> Result<Energy, SourceError> {
    let mut energy = Energy::default();
    for file in &checked.lane.files {
        let Some(item) = checked.items.iter().find(|item| item.name == file.name) else {
            continue;
        };
        let bytes = checked.source.load(item.address)?;
        let slices = file.entries.iter();
        for booked in slices.filter(|booked| booked.paid && booked.slice.is_some()) {
            // What was verified is read once more, so it can be read.
            let Ok((archived, ..)) = Reader::new(&bytes, booked.line.clone()).entry() else {
                continue;
            };
            if archived.entry.provider != provider {
                continue;
            }
            if let Content::Use(used) = archived.content {
                energy.add(&used.node, used.background.energy_millijoules);
            }
        }
    }
    Ok(energy)
}

/// What the provider's nodes cost, by their GpuNodes.
async fn economics(provider: u32) -> Economics {
    match tokio::time::timeout(PATIENCE, costs(provider)).await {
        Ok(Ok(nodes)) => Economics::Known(nodes),
        Ok(Err(error)) => Economics::Unread(error::chain(&error)),
        Err(_) => Economics::Unread("the cluster does not answer".to_owned()),
    }
}

async fn costs(provider: u32) -> Result<BTreeMap<String, NodeCosts>, PluginError> {
    let nodes: Api<GpuNode> = Api::all(cluster::client().await?);
    let all = cluster::list(&nodes, &ListParams::default())
        .await
        .map_err(|source| PluginError::Read {
            what: "the GpuNodes".to_owned(),
            source: Box::new(source),
        })?;
    let own = all.into_iter().filter(|node| {
        node.status.as_ref().and_then(|status| status.provider_id) == Some(provider)
    });
    Ok(own
        .map(|node| {
            let costs = node.spec.economics.clone();
            let costs = NodeCosts {
                capital: costs.as_ref().and_then(|costs| costs.capital_cost),
                tariff: costs.and_then(|costs| costs.energy_tariff_per_kwh),
            };
            (node.name_any(), costs)
        })
        .collect())
}
