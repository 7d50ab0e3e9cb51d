//! What happens in one run, made from its seed.

use super::dice::Dice;

/// A block is final when so many are on top of it; no reorganisation of a script is as deep.
pub const FINAL_DEPTH: u64 = 24;

/// A week and a day, in seconds.
pub const WEEK: u64 = 8 * 24 * 3600;

/// What is to be paid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// By a payer who has plenty.
    Sound,
    /// By a payer who has little, until somebody deposits.
    Poor,
    /// To a provider that does not exist.
    UnknownProvider,
    /// To a provider that cannot be paid yet.
    CoolingProvider,
    /// By a payer that does not exist.
    UnknownPayer,
    /// By a payer who has little, with an emission on top under the next number.
    Rewarded,
    /// More than a batch can say.
    TooLarge,
    /// With a receipt that is no hash.
    BrokenReceipt,
    /// So that the contract cannot read a batch that holds it, against all that is known of it.
    Unreadable,
}

/// What the chain does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weather {
    /// Some blocks are mined.
    Mine(u64),
    /// The newest blocks are replaced by empty ones.
    Reorganise(u64),
    /// The newest blocks are replaced by as many, the first of which holds all their transactions.
    Remine(u64),
    /// The pool forgets what it has.
    Forget,
    /// A transaction that is not of the log takes the gas account's next nonce.
    Stranger,
    /// What a block asks per gas, in gwei.
    BaseFee(u64),
    /// The gas account is emptied.
    GasGone,
    /// The gas account is filled.
    GasThere,
    /// So many seconds pass before the next block.
    Pass(u64),
    /// The poor payer's escrow gets so many nano-tokens.
    Deposit(u64),
    /// The poor payer takes back what is left.
    Withdraw,
    /// The reward account gets so many nano-tokens.
    Fund(u64),
    /// Nodes say of every account that it is there, has plenty and can be paid; or they say the truth again.
    Flatter(bool),
    /// Settling is paused or goes on.
    Pause(bool),
    /// The cooling provider can be paid.
    Activate,
    /// It cannot any more, as when a reorganisation undoes that.
    Deactivate,
}

/// What becomes of one request of a replica, to the chain or to the API server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mishap {
    /// It never arrives.
    Lost,
    /// It is done, and the answer is lost.
    AnswerLost,
    /// The answer is cut off.
    Garbled,
    /// Too many requests.
    Busy,
    /// An error in the endpoint's words.
    Refused,
    /// The endpoint knows only blocks that are some behind.
    Behind(u64),
    /// The replica dies before it.
    Dies,
    /// The replica dies after it.
    DiesAfter,
    /// The chain moves before it.
    Before(Weather),
    /// Another replica that believes it leads makes a whole pass before it.
    OtherLeads,
}

/// One thing that happens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    /// Records are sealed.
    Seal(Kind, u64),
    /// A node shows other GPUs, by a number, and the operator is to state them.
    Declare { node: u64, gpus: u64 },
    /// The chain does something.
    Chain(Weather),
    /// A replica looks at the chain and makes a pass; some of its requests, by their number, go wrong.
    Pass {
        replica: usize,
        mishaps: Vec<(usize, Mishap)>,
    },
    /// A replica makes a pass by what it saw of the chain earlier.
    PassUnseeing { replica: usize },
    /// A replica is started anew.
    Restart { replica: usize },
    /// The chain cannot be reached, or can be again.
    Away(bool),
    /// The API server creates nothing, or does again.
    CreatesNothing(bool),
    /// The API server's data are saved.
    BackUp,
    /// The API server's data are those of the last backup; seals come back from where they are remembered, and some are
    /// remembered nowhere.
    Restore,
}

const KINDS: [Kind; 27] = [
    Kind::Unreadable,
    Kind::Sound,
    Kind::Sound,
    Kind::Sound,
    Kind::Sound,
    Kind::Sound,
    Kind::Poor,
    Kind::CoolingProvider,
    Kind::Sound,
    Kind::Sound,
    Kind::Sound,
    Kind::Sound,
    Kind::Sound,
    Kind::Sound,
    Kind::Poor,
    Kind::Poor,
    Kind::Poor,
    Kind::Poor,
    Kind::UnknownProvider,
    Kind::CoolingProvider,
    Kind::CoolingProvider,
    Kind::UnknownPayer,
    Kind::Rewarded,
    Kind::Rewarded,
    Kind::Rewarded,
    Kind::TooLarge,
    Kind::BrokenReceipt,
];

fn weather(dice: &mut Dice) -> Weather {
    match dice.below(50) {
        0..=13 => Weather::Mine(1 + dice.below(3)),
        14..=15 => Weather::Mine(FINAL_DEPTH + 2),
        16..=20 => Weather::Reorganise(1 + dice.below(20)),
        21..=23 => Weather::Remine(1 + dice.below(20)),
        24..=27 => Weather::Forget,
        28..=29 => Weather::Stranger,
        30..=31 => Weather::BaseFee(*dice.pick(&[1, 1, 10, 50, 600])),
        32 => Weather::GasGone,
        33 => Weather::GasThere,
        34..=35 => Weather::Pass(*dice.pick(&[60, 1800, 7200, 90_000, WEEK])),
        36..=37 => Weather::Deposit(1_000_000 * (1 + dice.below(4))),
        38 => Weather::Pause(dice.below(3) == 0),
        39..=40 => Weather::Withdraw,
        41 => Weather::Fund(100 * (1 + dice.below(4))),
        42..=45 => Weather::Flatter(dice.below(3) > 0),
        46..=47 => Weather::Deactivate,
        _ => Weather::Activate,
    }
}

fn mishap(dice: &mut Dice) -> Mishap {
    match dice.below(12) {
        0 | 1 => Mishap::Lost,
        2 | 3 => Mishap::AnswerLost,
        4 => Mishap::Garbled,
        5 => Mishap::Busy,
        6 => Mishap::Refused,
        7 => Mishap::Behind(1 + dice.below(4)),
        8 => Mishap::Dies,
        9 => Mishap::DiesAfter,
        10 => Mishap::Before(weather(dice)),
        _ => Mishap::OtherLeads,
    }
}

/// Without what only the model does.
pub fn without_models(mut script: Vec<Act>) -> Vec<Act> {
    let models = |weather: &Weather| {
        matches!(
            weather,
            Weather::Withdraw | Weather::Flatter(_) | Weather::Deactivate
        )
    };
    script.retain_mut(|act| match act {
        Act::Seal(kind, _) => *kind != Kind::Unreadable,
        Act::Chain(weather) => !models(weather),
        Act::Pass { mishaps, .. } => {
            mishaps.retain(
                |(_, mishap)| !matches!(mishap, Mishap::Before(weather) if models(weather)),
            );
            true
        }
        _ => true,
    });
    script
}

/// The script of a seed.
pub fn of_seed(seed: u64) -> Vec<Act> {
    let mut dice = Dice::new(seed);
    let length = 20 + dice.below(40);
    // Some runs are calm, so that what is deep in the machine is reached as well.
    let trouble = dice.below(4);
    let mut script: Vec<Act> = (0..length).map(|_| act(&mut dice, trouble)).collect();
    let episode = match seed % 8 {
        5 => lost_while_it_can_be_mined(&mut dice),
        6 => stated_while_nobody_wants_it_any_more(&mut dice),
        _ => return script,
    };
    let at = usize::try_from(dice.below(length)).unwrap();
    script.splice(at..at, less_or_more(&mut dice, episode));
    script
}

const CALM: [Act; 4] = [
    Act::Away(false),
    Act::Chain(Weather::Pause(false)),
    Act::Chain(Weather::GasThere),
    Act::Chain(Weather::BaseFee(1)),
];

const fn pass(replica: usize) -> Act {
    Act::Pass {
        replica,
        mishaps: vec![],
    }
}

/// Some of `acts` are left out, and before some something else comes.
fn less_or_more(dice: &mut Dice, acts: Vec<Act>) -> Vec<Act> {
    let mut episode = Vec::new();
    for one in acts {
        match dice.below(24) {
            0 => {}
            1 => episode.extend([act(dice, 1), one]),
            _ => episode.push(one),
        }
    }
    episode
}

/// What chance hardly ever makes, because so much has to go well before it: the lane's last batch is final when the data are
/// saved, the next one is sent, the data are restored, and while replicas settle on, it is mined.
fn lost_while_it_can_be_mined(dice: &mut Dice) -> Vec<Act> {
    let replica = usize::try_from(dice.below(2)).unwrap();
    let mut acts = CALM.to_vec();
    acts.push(Act::Seal(Kind::Sound, 1));
    for blocks in [1, 1, 1, FINAL_DEPTH + 2] {
        acts.extend([pass(replica), Act::Chain(Weather::Mine(blocks))]);
    }
    acts.extend([pass(replica), pass(replica), Act::BackUp]);
    acts.push(Act::Seal(Kind::Sound, 3));
    acts.extend((0..=dice.below(3)).map(|_| pass(replica)));
    acts.push(Act::Restore);
    acts.extend((0..=dice.below(5)).map(|_| pass(replica)));
    acts.push(Act::Chain(Weather::Mine(1)));
    acts
}

/// Neither does it make this: a node shows other GPUs, and the former ones again before the others are stated, and the replica that
/// sees them stated for good cannot state the former ones again before its end.
fn stated_while_nobody_wants_it_any_more(dice: &mut Dice) -> Vec<Act> {
    let replica = usize::try_from(dice.below(2)).unwrap();
    let shows = |gpus| Act::Declare { node: 0, gpus };
    let mut acts = CALM.to_vec();
    acts.push(shows(1));
    for _ in 0..3 {
        acts.extend([pass(replica), Act::Chain(Weather::Mine(1))]);
    }
    acts.extend([pass(replica), shows(2), pass(replica), pass(replica)]);
    acts.extend([shows(1), Act::Chain(Weather::Mine(FINAL_DEPTH + 2))]);
    acts.push(Act::CreatesNothing(true));
    acts.extend((0..2 + dice.below(4)).map(|_| pass(replica)));
    acts.extend([Act::Restart { replica }, Act::CreatesNothing(false)]);
    acts
}

fn act(dice: &mut Dice, trouble: u64) -> Act {
    let replica = usize::try_from(dice.below(4)).unwrap() / 3;
    match dice.below(21) {
        0..=3 => Act::Seal(*dice.pick(&KINDS), 1 + dice.below(3)),
        20 => Act::Declare {
            node: dice.below(2),
            gpus: dice.below(3),
        },
        4..=8 => Act::Chain(weather(dice)),
        9..=10 => Act::Chain(Weather::Mine(1)),
        11..=16 => {
            let mishaps = (0..dice.below(1 + trouble))
                .map(|_| (usize::try_from(dice.below(48)).unwrap(), mishap(dice)))
                .collect();
            Act::Pass { replica, mishaps }
        }
        17 => Act::PassUnseeing { replica },
        18 => match dice.below(3) {
            0 => Act::BackUp,
            1 => Act::Restore,
            _ => Act::Restart { replica },
        },
        _ => Act::Away(dice.below(3) == 0),
    }
}
