//! Money: `register`, `stake`, `unstake`, `delegate`, `undelegate`, `claim`, `deposit`, `thaw`, `dispute`, `bind` and
//! `transaction`.
//!
//! | file | what |
//! |---|---|
//! | [`args`] | the command line |
//! | [`place`] | which chain: by flags, or by the operator's configuration |
//! | [`chain`] | asks the chain |
//! | [`token`], [`refusal`], [`plan`], [`outcome`] | amounts; contracts' errors in words; what is to be sent; what came of it; pure |
//! | [`register`], [`stake`], [`claim`], [`escrow`], [`dispute`] | what each command is to send, by what the chain says |
//! | [`bind`] | the StakeBinding that has nodes stand for a provider |
//! | [`send`] | simulates, asks, sends, and waits |
//! | [`transaction`] | what has become of a transaction |

pub mod args;
mod bind;
mod chain;
mod claim;
mod dispute;
mod escrow;
mod outcome;
pub mod place;
mod plan;
mod refusal;
mod register;
mod send;
mod stake;
mod token;
mod transaction;

use alloy::primitives::{Address, Bytes, TxHash};
use k8s_openapi::jiff::Timestamp;

use self::{args::SendArgs, chain::Chain, plan::Plan, token::Token};
pub use self::{bind::run as bind, transaction::run as transaction};
use crate::{Told, cli::Command, endpoint::Fault, error::PluginError, key::Key, output::written};

/// Why money was not moved, or is not known to have been.
#[derive(Debug, thiserror::Error)]
pub enum MoneyError {
    /// It is not known which chain is meant.
    #[error(
        "which chain? {0}. Name it by --rpc and --settlement; who runs the operator knows both"
    )]
    NoPlace(String),
    /// There is no HTTP client, such as without root certificates.
    #[error("make an HTTP client: install the system's root certificates")]
    Client(#[source] reqwest::Error),
    /// A request failed.
    #[error("--rpc: {op}: {fault}: try again, or name another endpoint by --rpc")]
    Request {
        /// What was asked.
        op: &'static str,
        /// What came of it.
        fault: Fault,
    },
    /// The endpoint serves another chain.
    #[error(
        "--rpc: the endpoint serves chain {found}, not {expected}: name one of chain {expected}"
    )]
    OtherChain {
        /// The id that is expected.
        expected: u64,
        /// The id that it has.
        found: u64,
    },
    /// The address is another contract's, or nobody's.
    #[error(
        "--settlement: {at} does not answer as the {contract} does on the chain of this endpoint: compare the addresses with the operator's configuration"
    )]
    NotContract {
        /// What it should be.
        contract: &'static str,
        /// The address.
        at: Address,
    },
    /// The contracts do not belong together.
    #[error(
        "--settlement: the StakeVault {vault}, which Settlement {settlement} names, names another Settlement or token: put no money there, and compare the addresses with the operator's configuration"
    )]
    Strangers {
        /// The Settlement.
        settlement: Address,
        /// The vault that it names.
        vault: Address,
    },
    /// The contract refuses; nothing was sent.
    #[error("{what}: the contract refuses with {error}: {next}")]
    Refused {
        /// What was to be done.
        what: String,
        /// The contract's error.
        error: String,
        /// What to do next.
        next: String,
    },
    /// The account cannot pay for gas.
    #[error(
        "the account {account} has {has} of the chain's coins and needs up to {needs} for gas: send it coins"
    )]
    NoCoins {
        /// The account.
        account: Address,
        /// What it has.
        has: String,
        /// What it needs.
        needs: String,
    },
    /// The chain has no base fee.
    #[error(
        "--rpc: the chain has no base fee (EIP-1559), and transactions of other forms are not sent"
    )]
    NoBaseFee,
    /// A transaction of the account waits.
    #[error(
        "a transaction of {account} with nonce {nonce} is in no block yet, perhaps this very one: wait until it is, or repeat that command with --nonce {nonce}"
    )]
    Waiting {
        /// The account.
        account: Address,
        /// The nonce of the first one that waits.
        nonce: u64,
    },
    /// The nonce is taken.
    #[error(
        "--nonce: a transaction of {account} with nonce {nonce} is in a block already: what was sent with it has been done or has failed, and was not sent again. `kubectl gridstake transaction HASH` says which; leave --nonce out to do it once more"
    )]
    NonceTaken {
        /// The account.
        account: Address,
        /// The nonce.
        nonce: u64,
    },
    /// The nonce comes too early.
    #[error(
        "--nonce: the next one of {account} is {next}, and {nonce} would wait for those before it: write {next}"
    )]
    NonceAhead {
        /// The account.
        account: Address,
        /// The nonce.
        nonce: u64,
        /// The next one.
        next: u64,
    },
    /// The endpoint did not take a transaction, and does not know it.
    #[error(
        "{what}: the endpoint did not take transaction {hash}: {words}. As far as it knows nothing has happened; repeat the command with --nonce {nonce}, so that it cannot be done twice"
    )]
    NotTaken {
        /// What was to be done.
        what: String,
        /// The transaction.
        hash: TxHash,
        /// Its nonce.
        nonce: u64,
        /// The endpoint's words.
        words: String,
    },
    /// It is not known what became of a transaction.
    #[error(
        "{what}: it is unknown, not failed: transaction {hash} was sent and is in no block yet{}. `kubectl gridstake transaction {hash}` looks for it; to send it again, repeat the command with --nonce {nonce}: only one of the two can be done",
        last.as_ref().map(|last| format!(" ({last})")).unwrap_or_default()
    )]
    Unknown {
        /// What was to be done.
        what: String,
        /// The transaction.
        hash: TxHash,
        /// Its nonce.
        nonce: u64,
        /// What went wrong last, if anything.
        last: Option<String>,
    },
    /// Another transaction took the nonce.
    #[error(
        "{what}: another transaction of {account} took nonce {nonce}, so {hash} can never be done: look what it was, and run the command again if it is still wanted"
    )]
    Displaced {
        /// What was to be done.
        what: String,
        /// The account.
        account: Address,
        /// The transaction.
        hash: TxHash,
        /// Its nonce.
        nonce: u64,
    },
    /// A transaction is in a block and failed.
    #[error(
        "{what}: transaction {hash} is in block {block} and failed{why}: it cost its gas and changed nothing else; run the command again"
    )]
    Failed {
        /// What was to be done.
        what: String,
        /// The transaction.
        hash: TxHash,
        /// Its block.
        block: u64,
        /// The contract's reason, if it is known.
        why: String,
    },
    /// What is asked for cannot be.
    #[error("{0}")]
    Unfit(String),
}

impl MoneyError {
    /// A contract refuses `what` with `data`.
    fn refused(what: &str, data: &Bytes, token: &Token) -> Self {
        let refusal = refusal::of(data, token);
        Self::Refused {
            what: what.to_owned(),
            error: refusal.error,
            next: refusal.next,
        }
    }
}

impl From<MoneyError> for PluginError {
    fn from(error: MoneyError) -> Self {
        Self::Money(Box::new(error))
    }
}

/// The chain and the account of a command that sends.
struct Desk {
    chain: Chain,
    key: Key,
    account: Address,
}

impl Desk {
    async fn open(args: &SendArgs) -> Result<Self, PluginError> {
        let key = Key::read(&args.key_file)?;
        Self::at(&place::find(&args.on).await?, key).await
    }

    async fn at(place: &place::Place, key: Key) -> Result<Self, PluginError> {
        Ok(Self {
            chain: Chain::open(place).await?,
            account: key.address(),
            key,
        })
    }

    /// The lane that a flag names, else the cluster's.
    fn lane(&self, flag: Option<u32>) -> Result<u32, MoneyError> {
        flag.or(self.chain.lane).ok_or_else(|| {
            MoneyError::Unfit(
                "--lane: name the cluster's lane, such as 7; who runs the operator knows it"
                    .to_owned(),
            )
        })
    }

    /// Shows the plan, asks, sends, and tells what came of it.
    async fn carry_out(&self, plan: Plan, args: &SendArgs) -> Result<Told, PluginError> {
        let done = send::carry_out(&self.chain, &self.key, &plan, args, Timestamp::now()).await?;
        let result = match done {
            send::Done::Shown(shown) => written(&shown, args.output)?,
            send::Done::Sent(sent) => {
                written(&outcome::of(&self.chain, self.account, &sent), args.output)?
            }
        };
        Ok(Told { result, note: None })
    }
}

/// Runs a command that sends transactions.
pub async fn run(command: &Command) -> Result<Told, PluginError> {
    match command {
        Command::Register(args) => register::run(args).await,
        Command::Stake(args) => stake::add(args).await,
        Command::Unstake(args) => stake::remove(args).await,
        Command::Delegate(args) => stake::delegate(args).await,
        Command::Undelegate(args) => stake::undelegate(args).await,
        Command::Claim(args) => claim::run(args).await,
        Command::Deposit(args) => escrow::deposit(args).await,
        Command::Thaw(args) => escrow::thaw(args).await,
        Command::Dispute(args) => dispute::run(args).await,
        _ => Err(PluginError::Unfit("it sends no transaction".to_owned())),
    }
}
