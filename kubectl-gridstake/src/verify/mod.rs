//! Verifies from archive and chain alone. It ends in one of three ways: everything is right, something is wrong, or it
//! could not be checked.

pub mod answers;
mod report;
mod rpc;
pub mod source;
mod uptime;

use std::{collections::BTreeSet, num::NonZero, path::PathBuf, process::ExitCode, thread};

use alloy::primitives::B256;
use gridstake_ledger::{
    archive,
    statement::Statement,
    verify::{
        Fault, Finding,
        all::{self, Item, LaneError},
        chain::{self, ChainBatch, Contradiction},
        earnings::{self, Earnings},
        evidence::Signatures,
        file::FileError,
    },
};

use self::{
    answers::{Answers, AnswersError, SettledBatch},
    report::{Report, Verdict},
    rpc::{Endpoint, RpcError},
    source::{Source, SourceError},
    uptime::Uptime,
};
use crate::{cli::VerifyArgs, error};

/// What a shell is told if something is wrong.
const WRONG: u8 = 1;
/// What a shell is told if it could not be checked.
const UNCHECKED: u8 = 2;

/// Why it could not be checked.
#[derive(Debug, thiserror::Error)]
enum VerifyError {
    #[error("start the runtime")]
    Runtime(#[source] std::io::Error),
    #[error(transparent)]
    Rpc(#[from] RpcError),
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error(transparent)]
    Answers(#[from] AnswersError),
    #[error("the chain's answers contradict each other: ask another endpoint")]
    Chain(#[from] Contradiction),
    #[error("{flag}: {path} cannot be {op}")]
    ChainFile {
        flag: &'static str,
        path: PathBuf,
        op: &'static str,
        #[source]
        source: std::io::Error,
    },
    #[error("--chain-file: {path} is not what --save-chain writes")]
    ChainFileForm {
        path: PathBuf,
        #[source]
        source: serde_json::Error,
    },
    #[error("write the chain's answers as JSON")]
    Encode(#[source] serde_json::Error),
    #[error(
        "--chain-file: it is about lane {lane} of {settlement}, and not about the one that the flags name"
    )]
    OtherLane {
        lane: u32,
        settlement: alloy::primitives::Address,
    },
    #[error("{0}")]
    Nothing(String),
    #[error("--vault: the chain file was saved without it: save it again with --vault")]
    NoOperators,
    #[error("--week: the chain file was saved without the slashes: save it again")]
    NoSlashes,
}

/// Verifies, prints the result, and says how it ended.
pub fn run(args: &VerifyArgs) -> ExitCode {
    match verified(args) {
        Ok(report) => {
            println!("{}", report.written(args.output));
            match report.verdict {
                Verdict::Right(_) => ExitCode::SUCCESS,
                Verdict::Wrong(_) => ExitCode::from(WRONG),
            }
        }
        Err(error) => {
            eprintln!(
                "kubectl gridstake: could not verify: {}",
                error::chain(&error)
            );
            ExitCode::from(UNCHECKED)
        }
    }
}

fn verified(args: &VerifyArgs) -> Result<Report, VerifyError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(VerifyError::Runtime)?;
    let prepared = runtime.block_on(prepare(args))?;
    let Ready {
        answers,
        source,
        items,
        earnings,
        uptime,
    } = match prepared {
        Ok(ready) => ready,
        Err((answers, finding)) => return Ok(Report::wrong(args, &answers, *finding)),
    };
    let threads = thread::available_parallelism().map_or(1, NonZero::get);
    let which = if args.every_signature {
        Signatures::Every
    } else {
        Signatures::Last
    };
    let outcome = all::verify(&items, threads, which, |item| source.load(item.address));
    let lane = match outcome {
        Ok(lane) => lane,
        Err(LaneError::File(FileError::Wrong(finding))) => {
            return Ok(Report::wrong(args, &answers, *finding));
        }
        Err(LaneError::File(FileError::Chain(error))) => return Err(error.into()),
        Err(LaneError::Load(SourceError::Missing { path })) => {
            let finding = Finding {
                file: path,
                at: 0..0,
                fault: Fault::Index,
                found: "nothing".to_owned(),
                expected: "the file that the index names".to_owned(),
            };
            return Ok(Report::wrong(args, &answers, finding));
        }
        Err(LaneError::Load(error)) => return Err(error.into()),
    };
    if let Some(operators) = answers.operators.as_ref().filter(|_| args.vault.is_some()) {
        for file in &lane.files {
            let foreign = file.certified.iter().find(|certified| {
                let of = operators.get(&certified.certificate.provider);
                Some(certified.certificate.vault) != args.vault
                    || !of.is_some_and(|known| known.contains(&certified.signer))
            });
            if let Some(foreign) = foreign {
                let provider = foreign.certificate.provider;
                let finding = Finding {
                    file: file.name.clone(),
                    at: foreign.line.clone(),
                    fault: Fault::Certificate,
                    found: format!("signed by {}", foreign.signer),
                    expected: format!("signed by who was the operator of provider {provider}"),
                };
                return Ok(Report::wrong(args, &answers, finding));
            }
        }
    }
    Ok(Report::right(args, &answers, lane, earnings, uptime))
}

/// What is to be verified.
struct Ready {
    answers: Answers,
    source: Source,
    items: Vec<Item>,
    /// What the week's batches come to, if a week is verified.
    earnings: Option<Earnings>,
    /// What the log of uptime says, if that is verified.
    uptime: Option<Uptime>,
}

type Prepared = Result<Ready, (Answers, Box<Finding>)>;

/// Asks the chain, and finds the files. The inner error is what is wrong already.
async fn prepare(args: &VerifyArgs) -> Result<Prepared, VerifyError> {
    let mut source = Source::open(&args.archive)?;
    let endpoint = args.rpc.as_ref().map(Endpoint::new).transpose()?;
    let mut answers = match &endpoint {
        Some(endpoint) => ask(endpoint, args).await?,
        None => from_file(args)?,
    };
    if args.vault.is_some() && answers.operators.is_none() {
        return Err(VerifyError::NoOperators);
    }
    let chosen = match choose(args, &answers, &source).await? {
        Ok(chosen) => chosen,
        Err(finding) => return Ok(Err((answers, finding))),
    };
    let looked_at: BTreeSet<u64> = chosen.union(&reporting(args, &answers)).copied().collect();
    if let Some(endpoint) = &endpoint {
        let wanted = match &args.save_chain {
            None => looked_at.clone(),
            Some(_) => answers.batches.iter().map(|batch| batch.sequence).collect(),
        };
        endpoint.read_inputs(&mut answers, &wanted).await?;
        if let Some(path) = &args.save_chain {
            save(path, &answers)?;
        }
    }
    let batches = answers.chain_batches(&looked_at)?;
    check_chain(&answers, &batches)?;
    let earnings = match earned(args, &answers, &batches)? {
        Ok(earnings) => earnings,
        Err(finding) => return Ok(Err((answers, finding))),
    };
    let uptime = if args.uptime {
        match uptime::verify(&source, &answers, args.week).await? {
            Ok(uptime) => Some(uptime),
            Err(finding) => return Ok(Err((answers, finding))),
        }
    } else {
        None
    };
    let mut items = Vec::with_capacity(batches.len());
    for chain in batches {
        if !chosen.contains(&chain.sequence) {
            continue;
        }
        match address(&source, &answers, chain.sequence).await? {
            Ok(address) => {
                source.prepare(address).await?;
                items.push(Item {
                    chain,
                    name: archive::object_path(address),
                    address,
                });
            }
            Err(finding) => return Ok(Err((answers, finding))),
        }
    }
    Ok(Ok(Ready {
        answers,
        source,
        items,
        earnings,
        uptime,
    }))
}

async fn ask(endpoint: &Endpoint, args: &VerifyArgs) -> Result<Answers, VerifyError> {
    let mut answers = endpoint
        .answers(args.settlement, args.lane, args.from_block)
        .await?;
    if let Some(vault) = args.vault {
        let operators = endpoint
            .operators(vault, args.from_block, answers.block)
            .await?;
        answers.operators = Some(operators);
    }
    if args.week.is_some() || args.save_chain.is_some() {
        let slashes = endpoint
            .slashes(args.settlement, args.lane, args.from_block, answers.block)
            .await?;
        answers.slashes = Some(slashes);
    }
    Ok(answers)
}

fn from_file(args: &VerifyArgs) -> Result<Answers, VerifyError> {
    let path = args.chain_file.clone().unwrap_or_default();
    let bytes = std::fs::read(&path).map_err(|source| VerifyError::ChainFile {
        flag: "--chain-file",
        path: path.clone(),
        op: "read",
        source,
    })?;
    let answers: Answers = serde_json::from_slice(&bytes)
        .map_err(|source| VerifyError::ChainFileForm { path, source })?;
    if answers.settlement != args.settlement || answers.lane != args.lane {
        return Err(VerifyError::OtherLane {
            lane: answers.lane,
            settlement: answers.settlement,
        });
    }
    Ok(answers)
}

fn save(path: &std::path::Path, answers: &Answers) -> Result<(), VerifyError> {
    let text = serde_json::to_vec_pretty(answers).map_err(VerifyError::Encode)?;
    std::fs::write(path, text).map_err(|source| VerifyError::ChainFile {
        flag: "--save-chain",
        path: path.to_owned(),
        op: "written",
        source,
    })
}

/// The numbers of the batches that state something about the week.
fn reporting(args: &VerifyArgs, answers: &Answers) -> BTreeSet<u64> {
    let Some(week) = args.week else {
        return BTreeSet::new();
    };
    let about = |batch: &&SettledBatch| {
        let mut statements = batch.statements.iter();
        statements.any(|stated| Statement::from(*stated).reports(week))
    };
    let batches = answers.batches.iter().filter(about);
    batches.map(|batch| batch.sequence).collect()
}

/// What the week's batches come to; `None` if no week is verified. The inner error is what is wrong.
fn earned(
    args: &VerifyArgs,
    answers: &Answers,
    batches: &[ChainBatch],
) -> Result<Result<Option<Earnings>, Box<Finding>>, VerifyError> {
    let Some(week) = args.week else {
        return Ok(Ok(None));
    };
    let slashed = answers.slashed(week).ok_or(VerifyError::NoSlashes)?;
    match earnings::verify(answers.lane_id(), week, answers.time, batches, &slashed) {
        Ok(earnings) => Ok(Ok(Some(earnings))),
        Err(FileError::Wrong(finding)) => Ok(Err(finding)),
        Err(FileError::Chain(error)) => Err(error.into()),
    }
}

/// The numbers of the batches that are verified.
async fn choose(
    args: &VerifyArgs,
    answers: &Answers,
    source: &Source,
) -> Result<Result<BTreeSet<u64>, Box<Finding>>, VerifyError> {
    let all = || answers.batches.iter().map(|batch| batch.sequence);
    let chosen: BTreeSet<u64> = if let Some(sequence) = args.batch {
        all().filter(|found| *found == sequence).collect()
    } else if let Some(week) = args.week {
        let settled = answers.batches.iter();
        settled
            .filter(|batch| week.holds(batch.timestamp))
            .map(|batch| batch.sequence)
            .collect()
    } else if let Some(record) = &args.record {
        match paying(record, answers, source).await? {
            Ok(sequence) => sequence.into_iter().collect(),
            Err(finding) => return Ok(Err(finding)),
        }
    } else {
        all().collect()
    };
    if chosen.is_empty() && reporting(args, answers).is_empty() {
        let words = match (args.batch, args.week, &args.record) {
            (Some(sequence), ..) => format!(
                "--batch: no event of batch {sequence} up to block {}; the lane stands at batch {}",
                answers.block, answers.head_sequence
            ),
            (_, Some(_), _) => "--week: no batch of the lane was settled in it".to_owned(),
            (.., Some(record)) => format!("--record: no file of the archive pays {record}"),
            _ => format!("no batch of lane {} was settled", answers.lane),
        };
        return Err(VerifyError::Nothing(words));
    }
    Ok(Ok(chosen))
}

/// The batch whose file pays `record`, looked for from the newest one on.
async fn paying(
    record: &str,
    answers: &Answers,
    source: &Source,
) -> Result<Result<Option<u64>, Box<Finding>>, VerifyError> {
    let mark = format!("\"use\":{{\"record\":\"{record}\",");
    for batch in answers.batches.iter().rev() {
        let address = match address(source, answers, batch.sequence).await? {
            Ok(address) => address,
            Err(finding) => return Ok(Err(finding)),
        };
        let file = source.read(&archive::object_path(address)).await?;
        let pays = |file: &[u8]| {
            file.windows(mark.len())
                .any(|window| window == mark.as_bytes())
        };
        if file.is_some_and(|file| pays(&file)) {
            return Ok(Ok(Some(batch.sequence)));
        }
    }
    Ok(Ok(None))
}

/// The chain's answers as far as they are used hang together and end in the lane's head.
fn check_chain(answers: &Answers, batches: &[ChainBatch]) -> Result<(), Contradiction> {
    for batch in batches {
        batch.content()?;
        let before = answers
            .batches
            .iter()
            .find(|before| before.sequence + 1 == batch.sequence);
        let follows = match before {
            Some(before) => before.chain_hash == batch.previous,
            None => batch.sequence > 1 || batch.previous.is_zero(),
        };
        if !follows {
            return Err(Contradiction::Link {
                sequence: batch.sequence,
            });
        }
    }
    let sequences: Vec<u64> = answers.batches.iter().map(|batch| batch.sequence).collect();
    for pair in sequences.windows(2) {
        if pair[0] + 1 != pair[1] {
            return Err(Contradiction::Gap {
                before: pair[0],
                after: pair[1],
            });
        }
    }
    let last = answers.batches.last();
    let last = last.map_or((0, B256::ZERO), |last| (last.sequence, last.chain_hash));
    if last != (answers.head_sequence, answers.head_hash) {
        return Err(Contradiction::Head {
            head: answers.head_sequence,
            last: last.0,
        });
    }
    // Where all of them are looked at, this is the whole chain of hashes.
    if batches.len() == answers.batches.len() {
        chain::is_whole(batches, Some(last))?;
    }
    Ok(())
}

/// The address of a batch's file, by the index.
async fn address(
    source: &Source,
    answers: &Answers,
    sequence: u64,
) -> Result<Result<B256, Box<Finding>>, VerifyError> {
    let path = archive::index_path(answers.chain_id, answers.settlement, answers.lane, sequence);
    let entry = source.read(&path).await?;
    let address = entry.as_deref().and_then(archive::read_index_entry);
    Ok(address.ok_or_else(|| {
        let found = match &entry {
            None => "nothing".to_owned(),
            Some(entry) => entry.escape_ascii().to_string(),
        };
        Box::new(Finding {
            file: path,
            at: 0..entry.map_or(0, |entry| entry.len()),
            fault: Fault::Index,
            found,
            expected: "the address of the batch's file and a line feed".to_owned(),
        })
    }))
}
