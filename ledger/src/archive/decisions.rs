//! The log of placements: on what fleet each was decided, for which request, and what was drawn, so that anyone can decide again.
//!
//! The log is a row of parts. A part is a file, written down as batches are: canonical lines of JSON, each with its check.
//!
//! ```text
//! objects/<first two digits of the address>/<address>         a part
//! clusters/<cluster>/decisions/<its number in 20 digits>      its address and a line feed; written once
//! clusters/<cluster>/decisions/newest                         the same of the newest part
//! ```
//!
//! | line | what it says |
//! |---|---|
//! | head | `format` (`gridstake-decisions`), `version` (2), `cluster`, `writer`, `part` (its number), `before` (the address of the part before it; absent in the first one), `whole`, `state` |
//! | `node` | all that the scheduler knows of a node; it replaces what was known of it |
//! | `taken` | what pods and promises take of a node, all together |
//! | `gone` | a node that is no more |
//! | `cuts` | whose weights are cut from here on, as it follows from the fleet that was told so far |
//! | `decision` | a request, and the decision about it. What its members take is taken from then on |
//! | `undone` | a decision that could not be written into its job: what it took is given back |
//!
//! A `writer` is a leader's term, or a stretch of it. Its parts follow one another; where two replicas believed for a moment that
//! they lead, those of two writers lie between one another. The first part of a writer is `whole`: it tells the fleet from the
//! beginning. Each line continues a chain of hashes, the state of the log: `state = keccak256(state ‖ line)`, without the line
//! feed, from [`origin`] in a whole part and from where the writer's part before ended in another one. A decision names the state
//! before it and is hashed with it, so its hash, which stands in the job's status and in the next decision, vouches for the whole
//! fleet on which it was made. In version 1, which is still read, nodes have no `owner` and nobody's weight is cut.

use std::collections::{BTreeMap, BTreeSet};

use alloy_primitives::{B256, hex, keccak256};
use serde::{Deserialize, Serialize};

use super::decode::{Place, lines};

/// What the first line of a part begins with.
pub const FORMAT: &str = "gridstake-decisions";
/// The version of the format that is written.
pub const VERSION: u64 = 2;
/// The version before owners' weights were cut.
pub const UNCUT_VERSION: u64 = 1;

/// The index of a part.
#[must_use]
pub fn index_path(cluster: &str, part: u64) -> String {
    format!("{}/{part:020}", folder(cluster))
}

/// The index of the newest part.
#[must_use]
pub fn newest_path(cluster: &str) -> String {
    format!("{}/newest", folder(cluster))
}

/// The folder of a cluster's index. The cluster's name is the uid of its namespace `kube-system`.
#[must_use]
pub fn folder(cluster: &str) -> String {
    format!("clusters/{cluster}/decisions")
}

/// The state of the log before a writer's first line, in the version that is written.
#[must_use]
pub fn origin(cluster: &str, writer: &str) -> B256 {
    origin_in(VERSION, cluster, writer)
}

fn origin_in(version: u64, cluster: &str, writer: &str) -> B256 {
    keccak256(format!("{FORMAT}/{version} {cluster} {writer}"))
}

/// The state of the log after `line`, which stands without its line feed.
#[must_use]
pub fn next_state(state: B256, line: &[u8]) -> B256 {
    keccak256([state.as_slice(), line].concat())
}

/// Amounts of what a node has and a pod asks for. What is absent is 0.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Amounts {
    /// Thousandths of a CPU core.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub cpu_milli: u64,
    /// Bytes of memory.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub memory_bytes: u64,
    /// Bytes of node-local scratch space.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub ephemeral_storage_bytes: u64,
    /// Pods.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub pods: u64,
    /// Whole GPUs.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub gpus: u64,
    /// Everything else by its resource name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub other: BTreeMap<String, u64>,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_zero(value: &u64) -> bool {
    *value == 0
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_false(value: &bool) -> bool {
    !value
}

/// A condition on a label: `operator` is one of Kubernetes' `In`, `NotIn`, `Exists`, `DoesNotExist`, `Gt`, `Lt`.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Requirement {
    /// The label.
    pub key: String,
    /// How it is compared.
    pub operator: String,
    /// With what.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub values: Vec<String>,
}

/// A taint of a node.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Taint {
    /// Its key.
    pub key: String,
    /// Its value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// `NoSchedule`, `NoExecute` or `PreferNoSchedule`.
    pub effect: String,
}

/// What a pod template puts up with. What is absent was not given.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Toleration {
    /// The taint's key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// `Exists` or `Equal`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operator: Option<String>,
    /// The taint's value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// The taint's effect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effect: Option<String>,
}

/// One alternative of a required node affinity.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Term {
    /// About labels.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub labels: Vec<Requirement>,
    /// About fields, of which there is `metadata.name`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fields: Vec<Requirement>,
}

/// A GPU of a node.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Gpu {
    /// The product name.
    pub model: String,
    /// Memory in MiB.
    #[serde(rename = "memoryMiB")]
    pub memory_mib: u64,
    /// Compute capability, as `9.0`; absent where it could not be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compute_capability: Option<String>,
    /// Whether it may be given to a job.
    #[serde(default, skip_serializing_if = "is_false")]
    pub usable: bool,
}

/// All that the scheduler knows of a node.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Its labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Its taints.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub taints: Vec<Taint>,
    /// Whether it is cordoned.
    #[serde(default, skip_serializing_if = "is_false")]
    pub cordoned: bool,
    /// Which namespaces' jobs it serves, by their labels, all of which must hold. Absent: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespaces: Option<Vec<Requirement>>,
    /// What the kubelet lets pods take.
    pub allocatable: Amounts,
    /// Its GPUs.
    pub gpus: Vec<Gpu>,
    /// Why no job may be placed on it. Absent: jobs may.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub withheld: Option<String>,
    /// When its provider takes it back, in Unix milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub closes_at_ms: Option<i64>,
    /// Nano-tokens for one GPU and one second.
    pub price: u128,
    /// The region that its provider declares.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// The jurisdiction that its provider declares.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jurisdiction: Option<String>,
    /// Reputation in thousandths.
    pub reputation: u32,
    /// Whether it has the stake that the lane asks for.
    #[serde(default, skip_serializing_if = "is_false")]
    pub bonded: bool,
    /// The provider's chain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chain: Option<String>,
    /// The provider's account number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider: Option<u32>,
    /// Who owns the stake behind it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// Its share of its provider's stake, in whole tokens.
    pub stake: u64,
    /// What stake, reputation and price say that it weighs in the draw, before its owner is cut.
    pub weight: u64,
    /// What pods and promises take of it.
    pub taken: Amounts,
}

/// What pods and promises take of a node, all together.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Taken {
    /// The node.
    pub node: String,
    /// How much.
    pub amounts: Amounts,
}

/// Whose weights are cut.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Cuts {
    /// Since when, in Unix milliseconds.
    pub at_ms: i64,
    /// The share of the weights of one model that one owner may have, in hundredths.
    pub percent: u8,
    /// Who is cut, in the order of models and owners.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cuts: Vec<Cut>,
}

/// How one owner's nodes of one model are cut: each weighs `max(1, ⌊weight · level ÷ sum⌋)`.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Cut {
    /// The model.
    pub model: String,
    /// The owner.
    pub owner: String,
    /// What the owner is left with.
    pub level: u64,
    /// What it had.
    pub sum: u64,
}

/// By which label the members of a gang are close to one another.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Closeness {
    /// The label.
    pub key: String,
    /// Whether they must be; else they should.
    #[serde(default, skip_serializing_if = "is_false")]
    pub required: bool,
}

/// What an attempt of a job asks for.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Request {
    /// How many members.
    pub members: u32,
    /// What each of them takes.
    pub each: Amounts,
    /// Models of which any will do. Empty: any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub models: Vec<String>,
    /// The least memory of a GPU, in MiB.
    #[serde(
        rename = "minMemoryMiB",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub min_memory_mib: Option<u64>,
    /// The least compute capability.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_compute_capability: Option<String>,
    /// Labels that a node must carry.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub node_selector: BTreeMap<String, String>,
    /// Alternatives of which a node must meet one. Absent: there is no such rule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub affinity: Option<Vec<Term>>,
    /// Taints that it puts up with.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tolerations: Vec<Toleration>,
    /// For how long it may run, in milliseconds. Absent: for ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_limit_ms: Option<u64>,
    /// The most that it pays, in nano-tokens for one GPU and one second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_price: Option<u128>,
    /// Regions of which any will do. Empty: any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub regions: Vec<String>,
    /// Jurisdictions of which any will do. Empty: any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub jurisdictions: Vec<String>,
    /// The least reputation, in thousandths.
    #[serde(default)]
    pub min_reputation: u32,
    /// Whether only bonded nodes will do.
    #[serde(default, skip_serializing_if = "is_false")]
    pub require_bond: bool,
    /// How close the members are to be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub closeness: Option<Closeness>,
    /// Labels of the job's namespace.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub namespace_labels: BTreeMap<String, String>,
    /// The chain on which it is paid for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chain: Option<String>,
    /// Nodes on which a placement of the job has failed.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub avoid: BTreeSet<String>,
    /// Nodes whose owners compute the result with which the job's own is to be compared.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub same_owner: BTreeSet<String>,
    /// Nodes that are kept for a job before it, and what it may take of them all the same.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub kept: BTreeMap<String, Amounts>,
}

/// One member's draw.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Drawn {
    /// Whether it was drawn among the nodes only of which a GPU is taken.
    #[serde(default, skip_serializing_if = "is_false")]
    pub partly_used: bool,
    /// The sum of weights.
    pub total: u64,
    /// The number drawn below it.
    pub number: u64,
    /// The node that won.
    pub winner: String,
}

/// A request, and the decision about it.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Decided {
    /// Its hash, which stands in the job's status.
    pub hash: B256,
    /// The state of the log before this line.
    pub state: B256,
    /// When, in Unix milliseconds.
    pub at_ms: i64,
    /// The name of the draw's specification.
    pub draw: String,
    /// The job's uid.
    pub job: String,
    /// The attempt.
    pub attempt: u32,
    /// The block that seeds the draw.
    pub block: B256,
    /// The decision before it, which seeds the draw too.
    pub previous: B256,
    /// Its number.
    pub snapshot: u64,
    /// How many nodes could take a member.
    pub candidates: u32,
    /// The sum of their weights.
    pub total_weight: u64,
    /// One draw for each member.
    pub drawn: Vec<Drawn>,
    /// How many nodes could not, by the first reason.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub rejections: BTreeMap<String, u32>,
    /// What was asked for.
    pub request: Request,
}

/// A decision that could not be written into its job.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Undone {
    /// The decision's hash.
    pub decision: B256,
    /// Why, in one word.
    pub why: String,
}

/// A line of a part, its head left out.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub enum Event {
    /// A node is new, or another one.
    Node(Box<Node>),
    /// Something is taken of a node, or given back.
    Taken(Taken),
    /// A node is no more.
    Gone(String),
    /// Whose weights are cut.
    Cuts(Cuts),
    /// A decision.
    Decision(Box<Decided>),
    /// A decision was not carried out.
    Undone(Undone),
}

/// The first line of a part.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Head {
    format: String,
    /// The version of the format: [`VERSION`] or [`UNCUT_VERSION`].
    pub version: u64,
    /// The cluster: the uid of its namespace `kube-system`.
    pub cluster: String,
    /// Who wrote it. No two have one name.
    pub writer: String,
    /// The part's number. Later parts have greater ones; not all numbers occur.
    pub part: u64,
    /// The address of the part before it. Absent: there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<B256>,
    /// Whether it tells the fleet from the beginning.
    #[serde(default, skip_serializing_if = "is_false")]
    pub whole: bool,
    /// The state of the log at its beginning.
    pub state: B256,
}

impl Head {
    /// The head of a part in the log of `cluster`, behind the part whose address is `before`. Without a `state` to go on from it
    /// is the writer's first, and whole.
    #[must_use]
    pub fn new(
        cluster: &str,
        writer: &str,
        part: u64,
        before: Option<B256>,
        state: Option<B256>,
    ) -> Self {
        Self {
            format: FORMAT.to_owned(),
            version: VERSION,
            cluster: cluster.to_owned(),
            writer: writer.to_owned(),
            part,
            before,
            whole: state.is_none(),
            state: state.unwrap_or_else(|| origin(cluster, writer)),
        }
    }
}

/// A line as it is written, without its line feed.
///
/// # Errors
/// Never for the types of this module: their maps have texts as keys.
pub fn line<T: Serialize>(content: &T) -> Result<Vec<u8>, serde_json::Error> {
    let mut text = serde_json::to_vec(content)?;
    // The closing brace comes after the check.
    text.pop();
    let check = keccak256(&text);
    text.extend(format!(r#","check":"{}"}}"#, hex::encode_prefixed(check)).into_bytes());
    Ok(text)
}

/// The file of a part: its head and its lines, which stand without line feeds.
///
/// # Errors
/// As [`line`].
pub fn encode(head: &Head, lines: &[Vec<u8>]) -> Result<Vec<u8>, serde_json::Error> {
    let mut file = line(head)?;
    file.push(b'\n');
    for line in lines {
        file.extend(line);
        file.push(b'\n');
    }
    Ok(file)
}

/// A part that was read.
#[derive(Clone, Debug, PartialEq)]
pub struct Part {
    /// Its first line.
    pub head: Head,
    /// The others, and where each stands in the file.
    pub events: Vec<(Place, Event)>,
    /// The state of the log at its end.
    pub end: B256,
}

/// Why bytes are no part.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// A line says something else than its check.
    #[error("byte {}: the line does not have its check: it was changed", .at.start)]
    Check {
        /// The line.
        at: Place,
    },
    /// A line is none.
    #[error("byte {at}: {why}")]
    Line {
        /// The first byte that cannot be right.
        at: usize,
        /// What is wrong.
        why: String,
    },
    /// The first line is no head of this format.
    #[error(
        "byte 0: this is no part of a log of decisions of version {UNCUT_VERSION} or {VERSION}"
    )]
    Format,
    /// A whole part begins with another state than follows from its writer's name.
    #[error("byte 0: the state at the beginning of a whole part is {expected}")]
    Origin {
        /// What it is.
        expected: B256,
    },
    /// A decision names another state than that before it.
    #[error("byte {}: the decision was made on another fleet: it names the state {stated}, and before it is {found}", .at.start)]
    State {
        /// The line.
        at: Place,
        /// The state that it names.
        stated: B256,
        /// The state that follows from the lines before it.
        found: B256,
    },
}

/// Reads a part, and checks each line and the states that it names.
///
/// # Errors
/// Names the first byte, or line, that is wrong.
pub fn decode(file: &[u8]) -> Result<Part, Unreadable> {
    let places = lines(file);
    let mut rest = places.into_iter();
    let first = rest.next().unwrap_or(0..0);
    let head: Head = read(file, &first)?;
    if head.format != FORMAT || ![UNCUT_VERSION, VERSION].contains(&head.version) {
        return Err(Unreadable::Format);
    }
    let expected = origin_in(head.version, &head.cluster, &head.writer);
    if head.whole && head.state != expected {
        return Err(Unreadable::Origin { expected });
    }
    let mut state = head.state;
    let mut events = Vec::new();
    for at in rest {
        let event: Event = read(file, &at)?;
        if let Event::Decision(decided) = &event
            && decided.state != state
        {
            return Err(Unreadable::State {
                at,
                stated: decided.state,
                found: state,
            });
        }
        state = next_state(state, file.get(at.clone()).unwrap_or_default());
        events.push((at, event));
    }
    Ok(Part {
        head,
        events,
        end: state,
    })
}

/// How much of a line is its check: `,"check":"0x` and 64 digits and `"}`.
const CHECK: usize = r#","check":"0x"#.len() + 64 + r#""}"#.len();

fn read<T: Serialize + for<'de> Deserialize<'de>>(
    file: &[u8],
    at: &Place,
) -> Result<T, Unreadable> {
    let whole = file.get(at.clone()).unwrap_or_default();
    if file.get(at.end) != Some(&b'\n') {
        let why = "the line has no end: a line feed".to_owned();
        return Err(Unreadable::Line { at: at.end, why });
    }
    let (body, check) = whole
        .split_at_checked(whole.len().saturating_sub(CHECK))
        .unwrap_or_default();
    let computed = format!(r#","check":"{}"}}"#, hex::encode_prefixed(keccak256(body)));
    if check != computed.as_bytes() {
        return Err(Unreadable::Check { at: at.clone() });
    }
    let mut json = body.to_vec();
    json.push(b'}');
    let content: T = serde_json::from_slice(&json).map_err(|error| Unreadable::Line {
        // The text has one line, so the column counts its bytes.
        at: at.start + error.column().saturating_sub(1),
        why: error.to_string(),
    })?;
    // There is one way to write it down.
    match line(&content) {
        Ok(written) if written == whole => Ok(content),
        written => {
            let written = written.unwrap_or_default();
            let same = written.iter().zip(whole).take_while(|(a, b)| a == b);
            Err(Unreadable::Line {
                at: at.start + same.count(),
                why: "what is said could be written in another way".to_owned(),
            })
        }
    }
}

#[cfg(test)]
#[path = "decisions_tests.rs"]
pub(crate) mod tests;
