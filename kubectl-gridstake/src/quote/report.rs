//! What a job would cost and how long it would wait on today's offers. Pure.

use alloy::primitives::{B256, U256};
use gridstake_crds::{ComputeJob, TokenAmount};
use gridstake_ledger::archive::decisions::{Node, Request};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt as _;
use serde::Serialize;

use super::{
    fleet,
    reference::{ListPrice, References},
    request,
};
use crate::{
    explain::waiting::what_would_help,
    output::{Report, columns, count, percent},
    replay::{fits, redo},
};

/// Seconds of an hour.
const HOUR: u128 = 3600;
/// How many nodes that fit are listed.
const LISTED: usize = 10;
/// How many draws of a gang are tried at most, and how many steps all of them may take together.
const DRAWS: u64 = 500;
const STEPS: u64 = 2_000_000;

/// A quote.
#[derive(Serialize, Clone, Debug)]
#[serde(rename_all = "camelCase")]
pub struct QuoteReport {
    /// The job's namespace.
    pub namespace: String,
    /// The job's name.
    pub name: String,
    /// How many members.
    pub members: u32,
    /// GPUs of each.
    pub gpus: u64,
    /// How often each member runs, so that results can be compared.
    pub runs: u32,
    /// How many nodes there are.
    pub nodes: usize,
    /// How many of them can take a member now.
    pub candidates: usize,
    /// Whether all members find room now.
    pub fits: bool,
    /// The nodes that can take a member, the likeliest first; ten at most.
    pub fitting: Vec<Fitting>,
    /// Why the others cannot.
    pub ruled_out: Vec<RuledOut>,
    /// What it would cost, where it fits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cost: Option<Cost>,
    /// How long it would wait.
    pub wait: Wait,
    /// What the GPUs cost here and elsewhere.
    pub models: Vec<ModelPrices>,
    /// The version of the table of prices elsewhere.
    pub references: String,
    /// Their currency.
    pub currency: String,
    /// What was not looked at.
    pub notes: Vec<String>,
}

/// A node that can take a member now.
#[derive(Serialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Fitting {
    /// The node.
    pub node: String,
    /// Its GPUs' model.
    pub model: String,
    /// How many members it could take.
    pub room: u64,
    /// The price of one GPU for one hour, in whole tokens.
    pub per_gpu_hour: TokenAmount,
    /// The odds that the first member is drawn to it, in thousandths.
    pub odds_permille: u64,
}

/// How many nodes a reason rules out.
#[derive(Serialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct RuledOut {
    /// How many nodes.
    pub nodes: u32,
    /// The reason.
    pub reason: String,
    /// What the tenant can do about it.
    pub next: &'static str,
}

/// What a job would cost, in whole tokens.
#[derive(Serialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Cost {
    /// One GPU for one hour on the cheapest node that fits.
    pub lowest_per_gpu_hour: TokenAmount,
    /// On the dearest one.
    pub highest_per_gpu_hour: TokenAmount,
    /// As the draw would have it on average.
    pub expected_per_gpu_hour: TokenAmount,
    /// How many draws that is the average of; absent where it was calculated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub draws: Option<u64>,
    /// All members for one hour, each as often as it runs.
    pub expected_per_hour: TokenAmount,
    /// All members for all of `timeouts.run`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expected_for_run: Option<TokenAmount>,
    /// The same on the dearest node that fits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub most_for_run: Option<TokenAmount>,
    /// `timeouts.run`, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run_seconds: Option<u64>,
}

/// How long a job would wait for a place.
#[derive(Serialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Wait {
    /// Whether it would start at once; absent where it depends on what is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub now: Option<bool>,
    /// By when the first one in the queue starts, if that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_starts_by: Option<Time>,
    /// How many jobs wait for a place; absent where they may not be listed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waiting: Option<usize>,
    /// In words.
    pub words: String,
}

/// What GPUs of a model cost here and elsewhere.
#[derive(Serialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct ModelPrices {
    /// The product name.
    pub model: String,
    /// How many nodes have it that could take a member if they were on offer and free.
    pub nodes: usize,
    /// The lowest price of one GPU for one hour, in whole tokens.
    pub lowest_per_gpu_hour: TokenAmount,
    /// The highest.
    pub highest_per_gpu_hour: TokenAmount,
    /// The lowest in US dollars, where it is said what a token is worth.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lowest_usd: Option<TokenAmount>,
    /// The lowest out of the lowest one elsewhere, in thousandths.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub of_reference_permille: Option<u64>,
    /// A token must be worth less than so many US dollars for the lowest price here to be below the lowest one elsewhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cheaper_below_usd: Option<TokenAmount>,
    /// Prices elsewhere, the lowest first; none where there is no reference.
    pub references: Vec<ListPrice>,
}

/// What is quoted, and on what.
pub struct Question<'a> {
    /// The job.
    pub job: &'a ComputeJob,
    /// Its namespace.
    pub namespace: String,
    /// What it asks for.
    pub request: Request,
    /// All nodes.
    pub fleet: Vec<Node>,
    /// All jobs; `None` where they may not be listed.
    pub jobs: Option<Vec<ComputeJob>>,
    /// Prices elsewhere.
    pub references: &'a References,
    /// What a token is worth, in US dollars.
    pub usd_per_token: Option<TokenAmount>,
    /// What was not looked at.
    pub notes: Vec<String>,
    /// The moment, in Unix milliseconds.
    pub now_ms: i64,
}

/// Quotes.
#[must_use]
pub fn quote(question: Question<'_>) -> QuoteReport {
    let Question {
        job,
        namespace,
        request,
        fleet,
        jobs,
        references,
        usd_per_token,
        notes,
        now_ms,
    } = question;
    let (obstacles, fit) = fits::sort(fleet.iter(), &request, now_ms);
    let draws = draws(&fit, &request);
    let mut ruled_out: Vec<RuledOut> = obstacles
        .into_iter()
        .map(|(reason, nodes)| RuledOut {
            nodes,
            next: what_would_help(&reason),
            reason,
        })
        .collect();
    if draws.is_none() && !fit.is_empty() {
        ruled_out.push(RuledOut {
            nodes: u32::try_from(fit.len()).unwrap_or(u32::MAX),
            reason: "GangDoesNotFit".to_owned(),
            next: what_would_help("GangDoesNotFit"),
        });
    }
    ruled_out.sort_by(|a, b| b.nodes.cmp(&a.nodes).then_with(|| a.reason.cmp(&b.reason)));
    let runs = request::runs(job);
    let seconds = request::run_seconds(job);
    let cost = draws.as_ref().map(|draws| {
        let gpus = u128::from(request.members) * u128::from(request.each.gpus) * u128::from(runs);
        cost(&fit, draws, gpus, seconds)
    });
    QuoteReport {
        name: job.name_any(),
        namespace,
        members: request.members,
        gpus: request.each.gpus,
        runs,
        nodes: fleet.len(),
        candidates: fit.len(),
        fits: draws.is_some(),
        fitting: fitting(&fit, &request),
        ruled_out,
        cost,
        wait: wait(draws.is_some(), jobs.as_deref()),
        models: models(&fleet, &request, references, usd_per_token),
        references: references.version.clone(),
        currency: references.currency.clone(),
        notes,
    }
}

/// The nodes among which the first member would be drawn: those that are partly used, where there are any.
fn first_stage<'a>(fit: &[&'a Node]) -> Vec<&'a Node> {
    let partly: Vec<&Node> = fit.iter().copied().filter(|n| n.taken.gpus > 0).collect();
    if partly.is_empty() {
        fit.to_vec()
    } else {
        partly
    }
}

fn fitting(fit: &[&Node], request: &Request) -> Vec<Fitting> {
    let stage = first_stage(fit);
    let total: u64 = stage.iter().map(|node| node.weight).sum();
    let mut all: Vec<Fitting> = fit
        .iter()
        .map(|node| {
            let takes_part = stage.iter().any(|other| other.name == node.name);
            let weight = if takes_part { node.weight } else { 0 };
            Fitting {
                node: node.name.clone(),
                model: model(node).to_owned(),
                room: fits::room(node, request),
                per_gpu_hour: per_hour(node.price),
                odds_permille: weight.saturating_mul(1000) / total.max(1),
            }
        })
        .collect();
    all.sort_by(|a, b| {
        b.odds_permille
            .cmp(&a.odds_permille)
            .then(a.per_gpu_hour.cmp(&b.per_gpu_hour))
            .then_with(|| a.node.cmp(&b.node))
    });
    all.truncate(LISTED);
    all
}

fn model(node: &Node) -> &str {
    let models = node.gpus.iter().map(|gpu| gpu.model.as_str());
    models.min().unwrap_or_default()
}

fn per_hour(nano: u128) -> TokenAmount {
    TokenAmount::from_nano(nano.saturating_mul(HOUR))
}

/// What the draw comes to: a sum of prices and of how many GPUs they are, so that the quotient is the average price of a GPU.
struct Draws {
    sum: U256,
    of: U256,
    /// How many draws were tried; `None`: it was calculated.
    tried: Option<u64>,
}

/// `None`: the members do not all find room.
fn draws(fit: &[&Node], request: &Request) -> Option<Draws> {
    let members = u64::from(request.members.max(1));
    redo::draw(fit, request, B256::ZERO)?;
    if members == 1 && request.closeness.is_none() {
        let stage = first_stage(fit);
        let weigh = |node: &&Node| U256::from(node.weight) * U256::from(node.price);
        return Some(Draws {
            sum: stage.iter().map(weigh).sum(),
            of: stage.iter().map(|node| U256::from(node.weight)).sum(),
            tried: None,
        });
    }
    let each = members.saturating_mul(fit.len() as u64).max(1);
    let tried = (STEPS / each).clamp(1, DRAWS);
    let price = |name: &str| fit.iter().find(|node| node.name == name).map(|n| n.price);
    let (mut sum, mut of) = (U256::ZERO, U256::ZERO);
    for number in 0..tried {
        let drawn = redo::draw(fit, request, B256::from(U256::from(number)))?;
        for member in &drawn {
            sum += U256::from(price(&member.winner)?);
            of += U256::from(1);
        }
    }
    Some(Draws {
        sum,
        of,
        tried: Some(tried),
    })
}

fn cost(fit: &[&Node], draws: &Draws, gpus: u128, seconds: Option<u64>) -> Cost {
    let prices = || fit.iter().map(|node| node.price);
    let highest = prices().max().unwrap_or(0);
    // Rounded up only at the end of each.
    let expected = |times: u128| {
        let all = draws.sum.saturating_mul(U256::from(times));
        TokenAmount::from_nano(all.div_ceil(draws.of.max(U256::from(1))).saturating_to())
    };
    let run = |seconds: u64| gpus.saturating_mul(seconds.into());
    Cost {
        lowest_per_gpu_hour: per_hour(prices().min().unwrap_or(0)),
        highest_per_gpu_hour: per_hour(highest),
        expected_per_gpu_hour: expected(HOUR),
        draws: draws.tried,
        expected_per_hour: expected(gpus.saturating_mul(HOUR)),
        expected_for_run: seconds.map(|seconds| expected(run(seconds))),
        most_for_run: seconds
            .map(|seconds| TokenAmount::from_nano(highest.saturating_mul(run(seconds)))),
        run_seconds: seconds,
    }
}

/// How long it would wait, by what the jobs that wait show.
fn wait(fits: bool, jobs: Option<&[ComputeJob]>) -> Wait {
    let Some(jobs) = jobs else {
        let words = if fits {
            "none, if nobody waits: the queue may not be read"
        } else {
            "not known: it does not fit now, and the queue may not be read"
        };
        return Wait {
            now: None,
            first_starts_by: None,
            waiting: None,
            words: words.to_owned(),
        };
    };
    let places: Vec<_> = jobs
        .iter()
        .filter_map(|job| job.status.as_ref()?.queue.as_ref())
        .collect();
    let first = places
        .iter()
        .filter(|place| place.position == 1)
        .find_map(|place| place.starts_by.clone());
    let waiting = count(places.len() as u64, "job waits", "jobs wait");
    let by = first.as_ref().map_or_else(
        || {
            "when the first of them starts is not known, since not all that runs has a timeouts.run"
                .to_owned()
        },
        |time| format!("the first of them starts by {}", time.0),
    );
    let (now, words) = match (fits, places.is_empty()) {
        (true, true) => (Some(true), "none: it fits now, and nobody waits".to_owned()),
        (true, false) => (
            None,
            format!(
                "none, unless room is kept for a job before it: it fits now; {waiting}, and {by}"
            ),
        ),
        (false, true) => (
            Some(false),
            "not known: it does not fit now; nobody waits, so it would be the first, and its status.queue.startsBy would say by when it starts".to_owned(),
        ),
        (false, false) => (
            Some(false),
            format!("not known: it does not fit now; {waiting}, and {by}"),
        ),
    };
    Wait {
        now,
        first_starts_by: first,
        waiting: Some(places.len()),
        words,
    }
}

/// Prices by model, of the nodes whose GPUs would do: also of those that are not free or not on offer now.
fn models(
    fleet: &[Node],
    request: &Request,
    references: &References,
    usd_per_token: Option<TokenAmount>,
) -> Vec<ModelPrices> {
    // The rules about GPUs come first, so that no other one hides them.
    let gpus = Request {
        models: request.models.clone(),
        min_memory_mib: request.min_memory_mib,
        min_compute_capability: request.min_compute_capability.clone(),
        ..Request::default()
    };
    let suits = |node: &&Node| {
        let others = [
            "ModelMismatch",
            "GpuMemoryTooSmall",
            "ComputeCapabilityTooLow",
        ];
        let obstacle = fits::obstacle(node, &gpus, 0);
        !node.gpus.is_empty() && obstacle.is_none_or(|reason| !others.contains(&reason))
    };
    fleet::models(fleet.iter().filter(suits))
        .into_iter()
        .map(|(model, nodes)| {
            let prices = || nodes.iter().map(|node| node.price);
            let lowest = per_hour(prices().min().unwrap_or(0));
            let found = references.of(model);
            let reference = found.first().map(|offer| offer.price.nano());
            let usd = usd_per_token.map(|worth| {
                let usd = lowest.nano().saturating_mul(worth.nano());
                usd.div_ceil(gridstake_crds::amount::NANO_PER_TOKEN)
            });
            ModelPrices {
                model: model.to_owned(),
                nodes: nodes.len(),
                lowest_per_gpu_hour: lowest,
                highest_per_gpu_hour: per_hour(prices().max().unwrap_or(0)),
                lowest_usd: usd.map(TokenAmount::from_nano),
                of_reference_permille: usd.zip(reference).map(|(usd, reference)| {
                    let permille = usd.saturating_mul(1000) / reference.max(1);
                    u64::try_from(permille).unwrap_or(u64::MAX)
                }),
                cheaper_below_usd: reference.filter(|_| lowest.nano() > 0).map(|reference| {
                    let worth = reference.saturating_mul(gridstake_crds::amount::NANO_PER_TOKEN)
                        / lowest.nano();
                    TokenAmount::from_nano(worth)
                }),
                references: found,
            }
        })
        .collect()
}

impl Report for QuoteReport {
    fn text(&self) -> String {
        let members = match self.members {
            1 => String::new(),
            number => format!("{number} members of "),
        };
        let runs = match self.runs {
            1 => String::new(),
            number => format!(", each run {number} times to compare the results"),
        };
        let mut lines = vec![
            format!(
                "ComputeJob {}/{}: {members}{}{runs}",
                self.namespace,
                self.name,
                count(self.gpus, "GPU", "GPUs")
            ),
            String::new(),
        ];
        lines.extend(self.room());
        lines.extend(self.price());
        lines.push(String::new());
        lines.push(format!("Expected wait: {}", self.wait.words));
        lines.extend(self.elsewhere());
        lines.extend(self.notes.iter().map(|note| format!("Note: {note}")));
        lines.join("\n")
    }
}

impl QuoteReport {
    fn room(&self) -> Vec<String> {
        let all = match (self.fits, self.members) {
            (true, 1) => "",
            (true, _) => ", and all members find room",
            (false, _) if self.candidates > 0 => ", and not all members find room",
            (false, _) => "",
        };
        let mut lines = vec![format!(
            "{}/{} nodes can take a member now{all}",
            self.candidates, self.nodes
        )];
        if !self.fitting.is_empty() {
            let rows: Vec<Vec<String>> = self
                .fitting
                .iter()
                .map(|node| {
                    vec![
                        node.node.clone(),
                        node.model.clone(),
                        node.room.to_string(),
                        node.per_gpu_hour.to_string(),
                        percent(node.odds_permille),
                    ]
                })
                .collect();
            let header = ["NODE", "MODEL", "ROOM", "TOKENS/GPU-HOUR", "ODDS"];
            lines.extend(columns("  ", &header, &rows));
            let more = self.candidates.saturating_sub(self.fitting.len());
            if more > 0 {
                lines.push(format!("  and {more} more"));
            }
        }
        if !self.ruled_out.is_empty() {
            lines.push("  the others:".to_owned());
            let rows: Vec<Vec<String>> = self
                .ruled_out
                .iter()
                .map(|one| {
                    vec![
                        one.nodes.to_string(),
                        one.reason.clone(),
                        one.next.to_owned(),
                    ]
                })
                .collect();
            let header = ["NODES", "REASON", "WHAT WOULD HELP"];
            lines.extend(columns("    ", &header, &rows));
        }
        lines
    }

    fn price(&self) -> Vec<String> {
        let Some(cost) = &self.cost else {
            return Vec::new();
        };
        let how = cost.draws.map_or_else(String::new, |draws| {
            format!(", the average of {}", count(draws, "draw", "draws"))
        });
        let mut lines = vec![
            String::new(),
            format!(
                "Expected price: {} tokens a GPU-hour{how} ({} to {}); {} an hour for the job",
                cost.expected_per_gpu_hour,
                cost.lowest_per_gpu_hour,
                cost.highest_per_gpu_hour,
                cost.expected_per_hour
            ),
        ];
        lines.push(
            match (cost.run_seconds, cost.expected_for_run, cost.most_for_run) {
                (Some(seconds), Some(expected), Some(most)) => format!(
                    "  {expected} tokens for a timeouts.run of {seconds} s, at most {most}; what ends sooner costs less, and a repeated attempt is paid, too"
                ),
                _ => "  without timeouts.run there is no end to what it can cost but the payer's daily cap".to_owned(),
            },
        );
        lines
    }

    fn elsewhere(&self) -> Vec<String> {
        if self.models.is_empty() {
            return Vec::new();
        }
        let mut lines = vec![
            String::new(),
            format!(
                "GPUs that would do, and list prices elsewhere in {} a GPU-hour ({})",
                self.currency, self.references
            ),
        ];
        let rows: Vec<Vec<String>> = self
            .models
            .iter()
            .map(|model| {
                let range = if model.lowest_per_gpu_hour == model.highest_per_gpu_hour {
                    model.lowest_per_gpu_hour.to_string()
                } else {
                    format!(
                        "{} to {}",
                        model.lowest_per_gpu_hour, model.highest_per_gpu_hour
                    )
                };
                let references: Vec<String> = model
                    .references
                    .iter()
                    .map(|offer| format!("{} {} ({})", offer.price, offer.seller, offer.offer))
                    .collect();
                let references = if references.is_empty() {
                    "no reference".to_owned()
                } else {
                    references.join(", ")
                };
                let compared = match (model.of_reference_permille, model.cheaper_below_usd) {
                    (Some(permille), _) => format!("{} of the lowest", percent(permille)),
                    (None, Some(worth)) => {
                        format!("cheaper below {worth} {} a token", self.currency)
                    }
                    (None, None) => "-".to_owned(),
                };
                vec![
                    model.model.clone(),
                    model.nodes.to_string(),
                    range,
                    references,
                    compared,
                ]
            })
            .collect();
        let header = ["MODEL", "NODES", "TOKENS/GPU-HOUR", "ELSEWHERE", "COMPARED"];
        lines.extend(columns("  ", &header, &rows));
        let read: Vec<&str> = self
            .models
            .iter()
            .flat_map(|model| &model.references)
            .map(|offer| offer.read.as_str())
            .collect();
        if let (Some(first), Some(last)) = (read.iter().min(), read.iter().max()) {
            let when = if first == last {
                (*first).to_owned()
            } else {
                format!("{first} to {last}")
            };
            lines.push(format!("  as read on {when}; -o json has their pages"));
        }
        lines
    }
}

#[cfg(test)]
#[path = "report_tests.rs"]
mod tests;
