use std::sync::Arc;

use proptest::prelude::*;

use super::{
    signs::{LEVEL_CLEAR, THROTTLE_CLEAR, THROTTLE_SET},
    *,
};
use crate::nvml::{
    Observation, Slot,
    call::{CallFailure, FailureKind},
    describe::DeviceFacts,
    inventory::{Inventory, STREAK},
    sample::{Sample, Sampled},
};

const GPU: &str = "GPU-a";
const SECOND: u64 = 1000;

fn anchor() -> Anchor {
    Anchor::at(1_800_000_000_000, BootMillis(0))
}

/// One GPU, seen once a second.
struct Watched {
    inventory: Inventory,
    health: Health,
    now: BootMillis,
}

impl Watched {
    fn new() -> Self {
        let mut watched = Self {
            inventory: Inventory::default(),
            health: Health::default(),
            now: BootMillis(1_000_000),
        };
        watched.sample(clean());
        watched
    }

    fn sample(&mut self, signs: Sampled) -> Verdict {
        let facts = DeviceFacts {
            uuid: GPU.to_owned(),
            index: 0,
            model: "H100".into(),
            architecture: None,
            memory_bytes: 80 << 30,
            compute_capability: "9.0".into(),
            pci_bus_id: None,
            mig: None,
            exclusive_process: false,
            nvlink_remotes: Vec::new(),
        };
        self.observe(Slot {
            index: 0,
            facts: Ok(Arc::new(facts)),
            sample: Sample {
                signs,
                ..Sample::default()
            },
        });
        self.verdict()
    }

    fn observe(&mut self, slot: Slot) {
        self.now = self.now.plus(SECOND);
        self.inventory.observe(&Observation {
            slots: vec![slot],
            ..Observation::default()
        });
        self.health
            .observe(self.inventory.devices(), self.now, anchor());
    }

    fn hear(&mut self, event: Event) {
        let heard = Heard {
            gpu: GPU.to_owned(),
            event,
            first: self.now,
            last: self.now,
            count: 1,
        };
        self.health.hear(&[heard], anchor());
    }

    fn pass(&mut self, time: Duration) {
        self.now = self.now.plus(u64::try_from(time.as_millis()).unwrap());
    }

    fn verdict(&mut self) -> Verdict {
        self.health.settle(self.now, true);
        self.health
            .verdict(self.inventory.devices().next().unwrap())
    }

    fn kinds(&self) -> Vec<DeviceFaultKind> {
        let told = self.health.told(GPU);
        told.iter().map(|fault| fault.kind).collect()
    }
}

fn clean() -> Sampled {
    Sampled {
        uncorrectable_errors: Some(0),
        remap_pending: Some(false),
        remap_failed: Some(false),
        thermal: Some(false),
        power_brake: Some(false),
    }
}

fn hot() -> Sampled {
    Sampled {
        thermal: Some(true),
        ..clean()
    }
}

fn healthy() -> Verdict {
    Verdict {
        health: DeviceHealth::Healthy,
        reasons: Vec::new(),
    }
}

fn ill(health: DeviceHealth, reason: DeviceReason) -> Verdict {
    Verdict {
        health,
        reasons: vec![reason],
    }
}

#[test]
fn an_xid_of_a_program_is_told_and_makes_no_device_unhealthy() {
    let mut gpu = Watched::new();
    for number in xid::APPLICATION {
        gpu.hear(Event::Xid(number));
    }
    assert_eq!(gpu.verdict(), healthy());
    assert_eq!(gpu.kinds(), [DeviceFaultKind::Xid; 6]);
}

#[test]
fn an_xid_against_the_hardware_holds_until_the_device_was_clean_for_long_enough() {
    for (numbers, health) in [
        (&xid::HARDWARE[..], DeviceHealth::Unhealthy),
        (&xid::WATCH[..], DeviceHealth::Degraded),
    ] {
        for number in numbers {
            let mut gpu = Watched::new();
            gpu.hear(Event::Xid(*number));
            assert_eq!(
                gpu.verdict(),
                ill(health, DeviceReason::XidFatal),
                "Xid {number}"
            );
            gpu.pass(CLEAN_FOR / 2);
            gpu.hear(Event::Xid(*number));
            gpu.pass(CLEAN_FOR.saturating_sub(Duration::from_millis(1)));
            assert_eq!(
                gpu.verdict().health,
                health,
                "the time runs from the last one"
            );
            gpu.pass(Duration::from_millis(1));
            assert_eq!(gpu.verdict(), healthy());
        }
    }
}

#[test]
fn uncorrectable_errors_count_once_whether_an_event_tells_of_them_or_not() {
    let mut gpu = Watched::new();
    gpu.hear(Event::DoubleBitEcc);
    let risen = |count| Sampled {
        uncorrectable_errors: Some(count),
        ..clean()
    };
    assert_eq!(
        gpu.sample(risen(3)),
        ill(DeviceHealth::Unhealthy, DeviceReason::EccUncorrectable)
    );
    let told = gpu.health.told(GPU);
    assert_eq!((told.len(), told[0].count), (1, 3));
    gpu.sample(risen(3));
    gpu.sample(risen(0));
    assert_eq!(
        gpu.health.told(GPU)[0].count,
        3,
        "a counter that was reset is no error"
    );
    gpu.pass(CLEAN_FOR);
    assert_eq!(gpu.verdict(), healthy());
    gpu.sample(risen(1));
    assert_eq!(gpu.health.told(GPU)[0].count, 1);
}

#[test]
fn a_count_that_the_agent_finds_at_its_start_is_no_news() {
    let mut gpu = Watched::new();
    gpu.health = Health::default();
    let old = Sampled {
        uncorrectable_errors: Some(7),
        ..clean()
    };
    assert_eq!(gpu.sample(old), healthy());
    // It was away when the count rose to 9.
    let state = gpu.health.state();
    gpu.health = Health::default();
    gpu.health.restore(state, true, gpu.now, anchor());
    let risen = Sampled {
        uncorrectable_errors: Some(9),
        ..clean()
    };
    assert_eq!(gpu.sample(risen).health, DeviceHealth::Unhealthy);
    assert_eq!(gpu.health.told(GPU)[0].count, 2);
}

#[test]
fn a_row_that_awaits_a_reset_degrades_a_device_and_one_that_cannot_be_remapped_ends_its_use() {
    let pending = Sampled {
        remap_pending: Some(true),
        ..clean()
    };
    let failed = Sampled {
        remap_failed: Some(true),
        ..clean()
    };
    for (signs, health, kind) in [
        (
            pending,
            DeviceHealth::Degraded,
            DeviceFaultKind::RowRemapPending,
        ),
        (
            failed,
            DeviceHealth::Unhealthy,
            DeviceFaultKind::RowRemapFailed,
        ),
    ] {
        let mut gpu = Watched::new();
        assert_eq!(
            gpu.sample(signs),
            ill(health, DeviceReason::RowRemapPending)
        );
        assert_eq!(gpu.kinds(), [kind]);
        gpu.pass(10 * CLEAN_FOR);
        assert_eq!(
            gpu.sample(signs).health,
            health,
            "no time ends it, a reset does"
        );
        for _ in 1..LEVEL_CLEAR {
            assert_eq!(gpu.sample(clean()).health, health);
        }
        assert_eq!(gpu.sample(clean()), healthy());
    }
}

#[test]
fn heat_degrades_a_device_only_when_it_lasts_and_until_it_has_been_gone_for_a_while() {
    let mut gpu = Watched::new();
    for _ in 1..THROTTLE_SET {
        assert_eq!(gpu.sample(hot()), healthy());
    }
    assert!(
        gpu.kinds().is_empty(),
        "a moment at the limit is not told either"
    );
    assert_eq!(
        gpu.sample(hot()),
        ill(DeviceHealth::Degraded, DeviceReason::ThermalThrottling)
    );
    assert_eq!(gpu.kinds(), [DeviceFaultKind::ThermalThrottling]);
    for _ in 1..THROTTLE_CLEAR {
        assert_eq!(gpu.sample(clean()).health, DeviceHealth::Degraded);
    }
    assert_eq!(gpu.sample(clean()), healthy());
    let braked = Sampled {
        power_brake: Some(true),
        ..clean()
    };
    for _ in 0..THROTTLE_SET {
        gpu.sample(braked);
    }
    assert_eq!(
        gpu.verdict(),
        ill(DeviceHealth::Degraded, DeviceReason::PowerThrottling)
    );
}

#[test]
fn a_device_that_tells_nothing_of_this_is_well() {
    let mut gpu = Watched::new();
    for _ in 0..100 {
        assert_eq!(gpu.sample(Sampled::default()), healthy());
    }
    assert!(gpu.kinds().is_empty());
}

#[test]
fn what_was_kept_holds_after_a_restart_and_a_boot_ends_it() {
    let mut gpu = Watched::new();
    gpu.hear(Event::Xid(79));
    let text = serde_json::to_string(&gpu.health.state()).unwrap();
    for same_boot in [true, false] {
        gpu.health = Health::default();
        let kept: State = serde_json::from_str(&text).unwrap();
        gpu.health.restore(kept, same_boot, gpu.now, anchor());
        let is_ill = gpu.verdict().health == DeviceHealth::Unhealthy;
        assert_eq!(is_ill, same_boot);
        assert_eq!(gpu.kinds(), [DeviceFaultKind::Xid]);
    }
}

#[test]
fn several_reasons_are_all_given_and_the_worst_decides() {
    let mut gpu = Watched::new();
    gpu.hear(Event::Xid(48));
    let verdict = gpu.sample(Sampled {
        remap_pending: Some(true),
        uncorrectable_errors: Some(1),
        ..clean()
    });
    assert_eq!(verdict.health, DeviceHealth::Unhealthy);
    assert_eq!(
        verdict.reasons,
        [
            DeviceReason::XidFatal,
            DeviceReason::EccUncorrectable,
            DeviceReason::RowRemapPending
        ]
    );
}

#[test]
fn a_lost_device_is_told_from_its_loss_to_its_last_failure_and_recovers_with_clean_samples() {
    let mut gpu = Watched::new();
    let lost = || Slot {
        index: 0,
        facts: Err(CallFailure {
            call: "nvmlDeviceGetHandleByIndex_v2",
            error: "GpuLost",
            kind: FailureKind::Lost,
        }),
        sample: Sample::default(),
    };
    let begin = gpu.now.plus(SECOND);
    for _ in 0..10 {
        gpu.observe(lost());
        assert_eq!(
            gpu.verdict(),
            ill(DeviceHealth::Unhealthy, DeviceReason::GpuLost)
        );
    }
    let end = gpu.now;
    for _ in 1..STREAK {
        assert_eq!(gpu.sample(clean()).health, DeviceHealth::Unhealthy);
    }
    assert_eq!(gpu.sample(clean()), healthy());
    gpu.pass(Duration::from_mins(2));
    gpu.verdict();
    let told = gpu.health.told(GPU);
    assert_eq!((told.len(), told[0].kind), (1, DeviceFaultKind::GpuLost));
    let unix = |moment| anchor().unix_ms(moment);
    assert_eq!(
        (told[0].first_ms, told[0].last_ms, told[0].count),
        (unix(begin), unix(end), 10)
    );
}

#[test]
fn an_error_that_was_announced_and_then_counted_holds_from_when_it_was_counted() {
    let (mut announced, mut counted) = (Watched::new(), Watched::new());
    let error = Sampled {
        uncorrectable_errors: Some(1),
        ..clean()
    };
    announced.hear(Event::DoubleBitEcc);
    for gpu in [&mut announced, &mut counted] {
        gpu.sample(error);
        gpu.pass(CLEAN_FOR.checked_sub(Duration::from_secs(1)).unwrap());
        assert_eq!(gpu.verdict().health, DeviceHealth::Unhealthy);
        gpu.pass(Duration::from_secs(1));
        assert_eq!(gpu.verdict(), healthy());
    }
    assert_eq!(announced.health.told(GPU)[0].count, 1);
}

/// What may happen to a device in a second.
#[derive(Clone, Copy, Debug)]
enum Happening {
    Sample(Sampled),
    Heard(Event),
    Wait(u64),
}

fn happening() -> impl Strategy<Value = Happening> {
    let sampled = (0_u64..3, any::<[bool; 4]>()).prop_map(|(errors, [a, b, c, d])| {
        Happening::Sample(Sampled {
            uncorrectable_errors: Some(errors),
            remap_pending: Some(a && b),
            remap_failed: Some(a && b && c && d),
            thermal: Some(c),
            power_brake: Some(d),
        })
    });
    let xid = prop::sample::select(vec![13_u32, 31, 45, 48, 63, 79, 94, 500]);
    prop_oneof![
        8 => sampled,
        1 => xid.prop_map(|xid| Happening::Heard(Event::Xid(xid))),
        1 => Just(Happening::Heard(Event::DoubleBitEcc)),
        1 => (0..2_400_000_u64).prop_map(Happening::Wait),
    ]
}

fn happens(gpu: &mut Watched, what: Happening) {
    match what {
        Happening::Sample(signs) => {
            gpu.sample(signs);
        }
        Happening::Heard(event) => gpu.hear(event),
        Happening::Wait(millis) => gpu.pass(Duration::from_millis(millis)),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn one_more_fault_of_the_hardware_never_makes_a_device_healthier(
        history in prop::collection::vec(happening(), 1..60),
        at in any::<prop::sample::Index>(),
        fault in prop::sample::select(vec![Event::DoubleBitEcc, Event::Xid(48), Event::Xid(63), Event::Xid(79)]),
    ) {
        let (mut without, mut with) = (Watched::new(), Watched::new());
        let at = at.index(history.len());
        for (number, what) in history.into_iter().enumerate() {
            if number == at {
                with.hear(fault);
            }
            happens(&mut without, what);
            happens(&mut with, what);
            let (without, with) = (without.verdict(), with.verdict());
            prop_assert!(severity(with.health) >= severity(without.health));
        }
    }

    #[test]
    fn a_device_that_became_unhealthy_stays_so_for_the_clean_time(history in prop::collection::vec(happening(), 1..60)) {
        let mut gpu = Watched::new();
        let mut last_bad = None;
        for what in history {
            happens(&mut gpu, what);
            if let Happening::Heard(Event::DoubleBitEcc | Event::Xid(48 | 79)) = what {
                last_bad = Some(gpu.now);
            }
            let is_held = last_bad.is_some_and(|at| gpu.now.since(at) < 1_800_000);
            let verdict = gpu.verdict();
            if is_held {
                prop_assert_eq!(verdict.health, DeviceHealth::Unhealthy);
            }
            prop_assert_eq!(verdict.health == DeviceHealth::Healthy, verdict.reasons.is_empty());
        }
    }
}
