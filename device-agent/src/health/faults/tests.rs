use proptest::prelude::*;

use super::*;

const ANCHOR_MS: u64 = 1_800_000_000_000;

fn anchor() -> Anchor {
    Anchor::at(ANCHOR_MS, BootMillis(0))
}

fn at(millis: u64) -> (BootMillis, BootMillis) {
    (BootMillis(millis), BootMillis(millis))
}

const LOST: DeviceFaultKind = DeviceFaultKind::GpuLost;

fn spans(log: &Log) -> Vec<(Option<u32>, u64, u64, u32)> {
    log.told()
        .into_iter()
        .map(|f| {
            (
                f.xid,
                f.first_ms - ANCHOR_MS,
                f.last_ms - ANCHOR_MS,
                f.count,
            )
        })
        .collect()
}

#[test]
fn sightings_of_the_same_are_one_fault_until_a_minute_lies_between_them() {
    let mut log = Log::default();
    assert!(log.see(What::xid(48), at(1_000), 1, anchor()));
    assert!(!log.see(What::xid(48), at(61_000), 2, anchor()));
    assert!(log.see(What::xid(48), at(121_001), 1, anchor()));
    assert!(log.see(What::xid(63), at(121_002), 1, anchor()));
    log.settle(BootMillis(121_002), true);
    assert_eq!(
        spans(&log),
        [
            (Some(63), 121_002, 121_002, 1),
            (Some(48), 121_001, 121_001, 1),
            (Some(48), 1_000, 61_000, 3),
        ],
        "the newest first"
    );
}

#[test]
fn a_fault_is_told_at_once_and_how_it_goes_on_when_that_is_asked() {
    let mut log = Log::default();
    log.see(What::xid(48), at(0), 1, anchor());
    assert_eq!(spans(&log), [(Some(48), 0, 0, 1)]);
    log.see(What::xid(48), at(5_000), 1, anchor());
    log.settle(BootMillis(5_000), false);
    assert_eq!(spans(&log), [(Some(48), 0, 0, 1)], "no write each second");
    log.settle(BootMillis(10_000), true);
    assert_eq!(spans(&log), [(Some(48), 0, 5_000, 2)]);
}

#[test]
fn what_lasts_is_told_every_five_minutes_and_when_it_is_over() {
    let mut log = Log::default();
    let mut changes = Vec::new();
    for second in 0..=700 {
        let now = BootMillis(second * 1000);
        if second <= 400 {
            log.see(What::of(LOST), (now, now), 1, anchor());
        }
        log.settle(now, true);
        let told = spans(&log)[0];
        if changes.last().map(|(_, before)| *before) != Some(told) {
            changes.push((second, told));
        }
    }
    assert_eq!(
        changes,
        [
            (0, (None, 0, 0, 1)),
            (300, (None, 0, 300_000, 301)),
            (461, (None, 0, 400_000, 401)),
        ]
    );
}

#[test]
fn a_fault_is_forgotten_a_day_after_it_was_last_seen() {
    let mut log = Log::default();
    log.see(What::xid(31), at(1_000), 1, anchor());
    log.settle(BootMillis(1_000 + KEPT_MS), true);
    assert_eq!(log.told().len(), 1);
    log.settle(BootMillis(1_001 + KEPT_MS), true);
    assert!(log.told().is_empty());
}

#[test]
fn a_kind_that_comes_again_and_again_crowds_no_other_out() {
    let mut log = Log::default();
    log.see(What::xid(79), at(0), 1, anchor());
    for number in 1..100 {
        let thermal = What::of(DeviceFaultKind::ThermalThrottling);
        log.see(thermal, at(number * 100_000), 1, anchor());
    }
    let told = log.told();
    assert_eq!(told.len(), FAULTS_MAX);
    assert_eq!(told.last().and_then(|fault| fault.xid), Some(79));
    assert_eq!(told[0].first_ms, ANCHOR_MS + 9_900_000);
}

#[test]
fn a_clock_that_is_set_changes_nothing_that_was_told_and_no_order() {
    let mut log = Log::default();
    log.see(What::xid(48), at(1_000), 1, anchor());
    let told = log.told();
    // An hour back; the same fault goes on.
    let set = Anchor::at(ANCHOR_MS - 3_600_000, BootMillis(0));
    assert!(!log.see(What::xid(48), at(2_000), 1, set));
    log.settle(BootMillis(2_000), true);
    let after = log.told();
    assert_eq!(after[0].first_ms, told[0].first_ms);
    assert_eq!(after[0].last_ms, told[0].last_ms + 1_000);
    assert_eq!(log.since_boot_within(BootMillis(2_000), 5_000).count(), 1);
}

#[test]
fn after_a_boot_what_was_told_stays_and_speaks_against_nobody_any_more() {
    let mut log = Log::default();
    log.see(What::xid(48), at(7_000_000), 1, anchor());
    let told = log.told();
    let text = serde_json::to_string(&log).unwrap();
    let mut log: Log = serde_json::from_str(&text).unwrap();
    // Booted an hour after the fault.
    let boot = Anchor::at(ANCHOR_MS + 7_000_000 + 3_600_000, BootMillis(0));
    log.rebooted(BootMillis(5_000), boot);
    assert_eq!(log.told(), told);
    assert_eq!(log.since_boot_within(BootMillis(5_000), KEPT_MS).count(), 0);
    assert!(log.see(What::xid(48), at(6_000), 1, boot), "it is another");
    log.settle(BootMillis(KEPT_MS - 3_600_000 + 1), true);
    assert_eq!(log.told().len(), 1, "the older one's day is over");
}

#[test]
fn after_a_boot_with_a_clock_that_was_set_back_a_fault_is_still_forgotten() {
    let mut log = Log::default();
    log.see(What::xid(48), at(7_000_000), 1, anchor());
    let told = log.told();
    log.rebooted(
        BootMillis(5_000),
        Anchor::at(ANCHOR_MS - 99 * KEPT_MS, BootMillis(0)),
    );
    assert_eq!(log.told(), told);
    log.settle(BootMillis(5_001 + KEPT_MS), true);
    assert!(log.told().is_empty());
}

#[test]
fn what_was_published_and_is_not_known_is_taken_over_once() {
    let mut published = Log::default();
    published.see(What::xid(48), at(1_000), 3, anchor());
    published.see(What::xid(79), at(2_000), 1, anchor());
    let mut log = Log::default();
    log.see(What::xid(79), at(2_000), 1, anchor());
    for _ in 0..2 {
        log.recall(&published.told(), BootMillis(9_000), anchor());
        assert_eq!(log.told(), published.told());
    }
    assert!(
        !log.see(What::xid(48), at(9_000), 1, anchor()),
        "it goes on"
    );
}

proptest! {
    #[test]
    fn no_sighting_of_the_last_day_is_lost_while_there_is_room(steps in prop::collection::vec((0_u64..200_000, 0_u32..3, 1_u32..4), 1..60)) {
        let mut log = Log::default();
        let mut now = 0;
        let (mut seen, mut opened) = (0_u32, 0_usize);
        for (wait, xid, count) in steps {
            now += wait;
            opened += usize::from(log.see(What::xid(xid), at(now), count, anchor()));
            log.settle(BootMillis(now), true);
            seen += count;
            let told = log.told();
            prop_assert!(told.len() <= FAULTS_MAX);
            prop_assert!(told.windows(2).all(|pair| pair[0].last_ms >= pair[1].last_ms));
            prop_assert!(told.iter().all(|fault| fault.first_ms <= fault.last_ms));
            prop_assert!(told[0].last_ms == ANCHOR_MS + now, "the newest is never the one that goes");
            if opened <= FAULTS_MAX {
                prop_assert_eq!(told.iter().map(|fault| fault.count).sum::<u32>(), seen);
            }
        }
    }
}
