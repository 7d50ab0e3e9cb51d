//! What is wrong, whose fault that is, and what becomes of the signals of it.

use super::dice::Dice;

/// At whose door a fault belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    Host,
    Tenant,
    Infrastructure,
    /// From outside nobody can tell.
    Nobody,
}

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    GpuFallsOffTheBus,
    GpuFallsOffTheBusAndTheProgramHangs,
    HardwareXid,
    ContainedMemoryError,
    UnfitGpuIsGiven,
    PowerFails,
    KubeletDies,
    NodeShutsDown,
    GpuRuntimeIsBroken,
    DevicePluginRefuses,
    ProgramExits,
    ProgramHasAnXid,
    ProgramExitsWhileAnotherGpuBreaks,
    ProgramExitsLongAfterAFault,
    ProgramExitsJustBeforeAFault,
    MemoryLimit,
    StorageLimit,
    ImageName,
    Command,
    ZoneFails,
    AmnestyHolds,
    Maintenance,
    Drain,
    PlaceTaken,
    NodeDeleted,
    PodDeleted,
    Killed,
    NodePressure,
}

impl Cause {
    pub const ALL: &[Self] = &[
        Self::GpuFallsOffTheBus,
        Self::GpuFallsOffTheBusAndTheProgramHangs,
        Self::HardwareXid,
        Self::ContainedMemoryError,
        Self::UnfitGpuIsGiven,
        Self::PowerFails,
        Self::KubeletDies,
        Self::NodeShutsDown,
        Self::GpuRuntimeIsBroken,
        Self::DevicePluginRefuses,
        Self::ProgramExits,
        Self::ProgramHasAnXid,
        Self::ProgramExitsWhileAnotherGpuBreaks,
        Self::ProgramExitsLongAfterAFault,
        Self::ProgramExitsJustBeforeAFault,
        Self::MemoryLimit,
        Self::StorageLimit,
        Self::ImageName,
        Self::Command,
        Self::ZoneFails,
        Self::AmnestyHolds,
        Self::Maintenance,
        Self::Drain,
        Self::PlaceTaken,
        Self::NodeDeleted,
        Self::PodDeleted,
        Self::Killed,
        Self::NodePressure,
    ];

    const fn door(self) -> Door {
        match self {
            Self::GpuFallsOffTheBus
            | Self::GpuFallsOffTheBusAndTheProgramHangs
            | Self::HardwareXid
            | Self::ContainedMemoryError
            | Self::UnfitGpuIsGiven
            | Self::PowerFails
            | Self::KubeletDies
            | Self::NodeShutsDown
            | Self::GpuRuntimeIsBroken
            | Self::DevicePluginRefuses => Door::Host,
            Self::ProgramExits
            | Self::ProgramHasAnXid
            | Self::ProgramExitsWhileAnotherGpuBreaks
            | Self::ProgramExitsLongAfterAFault
            | Self::ProgramExitsJustBeforeAFault
            | Self::MemoryLimit
            | Self::StorageLimit
            | Self::ImageName
            | Self::Command => Door::Tenant,
            Self::ZoneFails
            | Self::AmnestyHolds
            | Self::Maintenance
            | Self::Drain
            | Self::PlaceTaken
            | Self::NodeDeleted => Door::Infrastructure,
            Self::PodDeleted | Self::Killed | Self::NodePressure => Door::Nobody,
        }
    }

    /// Whether only the agent can tell of it.
    const fn needs_an_agent(self) -> bool {
        matches!(
            self,
            Self::GpuFallsOffTheBus
                | Self::GpuFallsOffTheBusAndTheProgramHangs
                | Self::HardwareXid
                | Self::ContainedMemoryError
                | Self::UnfitGpuIsGiven
        )
    }
}

/// What becomes of the agent's signals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signals {
    /// They come as they should.
    InTime,
    /// The agent's heartbeats, and what they tell, come so many seconds late.
    Late(i64),
    /// Xids came in a burst, and the driver gave the last one's number for all of them.
    Burst,
    /// The agent is away from shortly before the fault until long after it.
    Away,
    /// The agent is started anew while it happens: nothing of the time between was seen.
    Restart,
}

/// A GPU's fault as it is written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sign {
    Xid(u32),
    Lost,
    Ecc,
    Hot,
}

/// A sign on a GPU of a node: `own` of the member's GPUs, or another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shown {
    pub node: u32,
    pub own: bool,
    pub sign: Sign,
    /// When, in ms after the members began.
    pub at_ms: i64,
}

/// One fault and everything around it. Times are seconds after the members began.
#[derive(Clone, Debug)]
pub struct Scenario {
    pub cause: Cause,
    pub door: Door,
    /// The members whose node or GPU it is.
    pub hit: Vec<u32>,
    /// Members, each on a node of its own with the member's number; the other nodes run nothing of the job.
    pub members: u32,
    pub nodes: u32,
    /// When the fault strikes.
    pub strikes: i64,
    /// When the first process ends by it, in ms.
    pub ends_ms: i64,
    pub exit_code: i32,
    pub shown: Vec<Shown>,
    pub signals: Signals,
    /// Whether anything that names the host reaches the operator.
    pub is_heard: bool,
    /// At which second of ten the agents' heartbeats come.
    pub phase: i64,
}

impl Scenario {
    /// Whether the attempt comes to an end by it.
    pub fn ends(&self) -> bool {
        match self.cause {
            Cause::AmnestyHolds => false,
            // No process ends by it: somebody must see it.
            Cause::GpuFallsOffTheBusAndTheProgramHangs | Cause::UnfitGpuIsGiven => self.is_heard,
            _ => true,
        }
    }
}

/// Heartbeats come every 10 s, and an agent that was not heard of for 30 s is silent.
const LATEST: i64 = 18;

/// Xids against the hardware, and whether NVML shows the fault in another way as well.
const HARDWARE: [(u32, bool); 8] = [
    (48, true),
    (95, true),
    (140, true),
    (62, false),
    (74, false),
    (119, false),
    (120, false),
    (46, false),
];

/// The scenario of a seed.
pub fn of_seed(seed: u64) -> Scenario {
    let mut dice = Dice::new(seed);
    let cause = *dice.pick(Cause::ALL);
    let members = 1 + u32::try_from(dice.below(4)).unwrap();
    let nodes = members + 3 + u32::try_from(dice.below(4)).unwrap();
    let hit = u32::try_from(dice.below(u64::from(members))).unwrap();
    let strikes = 70 + i64::try_from(dice.below(3_000)).unwrap();
    let lag = i64::try_from(dice.below(5_000)).unwrap();
    let mut scenario = Scenario {
        cause,
        door: cause.door(),
        hit: vec![hit],
        members,
        nodes,
        strikes,
        ends_ms: strikes * 1_000 + lag,
        exit_code: *dice.pick(&[1, 2, 134, 139, 255]),
        shown: Vec::new(),
        signals: Signals::InTime,
        is_heard: true,
        phase: i64::try_from(dice.below(10)).unwrap(),
    };
    scenario.signals = match dice.below(10) {
        0..=4 => Signals::InTime,
        5 | 6 => Signals::Late(1 + i64::try_from(dice.below(40)).unwrap()),
        7 => Signals::Burst,
        8 => Signals::Away,
        _ => Signals::Restart,
    };
    signs(&mut scenario, hit, &mut dice);
    coincidences(&mut scenario, hit, &mut dice);
    scenario
}

/// A little later, in ms.
fn soon(dice: &mut Dice, at_ms: i64) -> i64 {
    at_ms + i64::try_from(dice.below(900)).unwrap()
}

fn signs(scenario: &mut Scenario, hit: u32, dice: &mut Dice) {
    let strikes_ms = scenario.strikes * 1_000;
    let show = |sign, at_ms| Shown {
        node: hit,
        own: true,
        sign,
        at_ms,
    };
    let mut shown = Vec::new();
    match scenario.cause {
        Cause::GpuFallsOffTheBus | Cause::GpuFallsOffTheBusAndTheProgramHangs => {
            shown.push(show(Sign::Xid(79), strikes_ms));
            shown.push(show(Sign::Lost, soon(dice, strikes_ms)));
            // A program may wait for its GPU until a watchdog of its own ends it.
            if dice.below(2) == 0 {
                scenario.ends_ms += 30_000;
            }
        }
        Cause::HardwareXid => {
            let (number, has_a_count) = *dice.pick(&HARDWARE);
            if has_a_count {
                shown.push(show(Sign::Ecc, soon(dice, strikes_ms)));
            }
            shown.push(show(Sign::Xid(number), strikes_ms));
            if dice.below(2) == 0 {
                shown.push(show(Sign::Xid(45), scenario.ends_ms));
            }
        }
        Cause::ContainedMemoryError => {
            shown.push(show(Sign::Xid(94), strikes_ms));
            shown.push(show(Sign::Ecc, soon(dice, strikes_ms)));
        }
        Cause::UnfitGpuIsGiven => {
            shown.push(show(Sign::Xid(48), -120_000));
            shown.push(show(Sign::Ecc, -120_000));
        }
        Cause::ProgramHasAnXid => {
            let number = *dice.pick(&[13, 31, 68]);
            shown.push(show(Sign::Xid(number), strikes_ms));
            shown.push(show(Sign::Xid(*dice.pick(&[43, 45])), scenario.ends_ms));
        }
        Cause::ProgramExitsWhileAnotherGpuBreaks => shown.push(Shown {
            own: false,
            ..show(Sign::Xid(*dice.pick(&[48, 79, 95])), strikes_ms)
        }),
        Cause::ProgramExitsLongAfterAFault => {
            let before = 65_000 + i64::try_from(dice.below(600_000)).unwrap();
            shown.push(show(Sign::Xid(48), scenario.ends_ms - before));
        }
        Cause::ProgramExitsJustBeforeAFault => {
            let after = 4_000 + i64::try_from(dice.below(4_000)).unwrap();
            shown.push(show(
                Sign::Xid(*dice.pick(&[48, 79])),
                scenario.ends_ms + after,
            ));
        }
        Cause::Killed => scenario.exit_code = *dice.pick(&[137, 143]),
        _ => {}
    }
    let is_gpu = scenario.cause.needs_an_agent();
    match scenario.signals {
        Signals::Burst if is_gpu => {
            // All Xids are told as 45; what is counted or sampled is told all the same.
            for shown in &mut shown {
                if matches!(shown.sign, Sign::Xid(_)) {
                    shown.sign = Sign::Xid(45);
                }
            }
            let other = |shown: &Shown| !matches!(shown.sign, Sign::Xid(_));
            scenario.is_heard = shown.iter().any(other);
        }
        // What happened while it was away it has not heard; what lasts, it still sees.
        Signals::Away | Signals::Restart if is_gpu => {
            shown.retain(|shown| shown.sign == Sign::Lost);
            scenario.is_heard = false;
        }
        Signals::Burst | Signals::Away | Signals::Restart => {
            shown.clear();
        }
        _ => {}
    }
    // A late heartbeat is waited for, until its agent counts as silent.
    if matches!(scenario.signals, Signals::Late(late) if late > LATEST) && is_gpu {
        scenario.is_heard = false;
    }
    scenario.shown = shown;
}

/// What happens beside it and has nothing to do with it.
fn coincidences(scenario: &mut Scenario, hit: u32, dice: &mut Dice) {
    let at_ms = scenario.ends_ms - i64::try_from(dice.below(60_000)).unwrap();
    let beside = |own, sign| Shown {
        node: hit,
        own,
        sign,
        at_ms,
    };
    match dice.below(8) {
        0 => scenario.shown.push(beside(false, Sign::Xid(48))),
        1 => scenario.shown.push(beside(true, Sign::Hot)),
        2 => scenario.shown.push(beside(false, Sign::Lost)),
        // On a node that runs nothing of the job.
        3 => scenario.shown.push(Shown {
            node: scenario.nodes - 1,
            ..beside(true, Sign::Xid(79))
        }),
        _ => {}
    }
}
