use gridstake_crds::{
    closed_enum::ClosedEnum as _,
    compute_job::{AttemptEndReason as R, Ending, Verdict, VerdictReason as V},
    gpu_node::{DeviceFault, DeviceFaultKind as K},
    xid,
};
use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};
use proptest::prelude::*;

use super::{
    gpu_evidence::{CAUSE_MS, SAMPLE_LATE_MS, unusable_gpu},
    *,
};
use crate::controllers::usage_record::bill::unix_millis;

/// When the member began, and when it ended, in seconds.
const BEGAN: i64 = 1_800_000_000;
const ENDED: i64 = BEGAN + 1_000;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn ms(second: i64) -> u64 {
    unix_millis(at(second))
}

fn fault(kind: K, xid: Option<u32>, first: i64, last: i64) -> DeviceFault {
    DeviceFault {
        kind,
        xid,
        first_ms: ms(first),
        last_ms: ms(last),
        count: 1,
    }
}

fn xid_at(number: u32, second: i64) -> DeviceFault {
    fault(K::Xid, Some(number), second, second)
}

/// A place on a node that is well and has told everything.
fn place(member: u32, faults: Vec<DeviceFault>) -> Place {
    Place {
        member,
        gpus: vec![Gpu {
            uuid: format!("GPU-{member}"),
            faults,
            ..Gpu::default()
        }],
        gpus_are_known: true,
        told_until_ms: Some(ms(ENDED + 10)),
        is_heard: true,
        sees_gpus: true,
        gaps: Vec::new(),
        loss: Loss::None,
        excuse: None,
    }
}

fn end(reason: R) -> Ending {
    Ending {
        attempt: 1,
        reason,
        hint: None,
        exit_code: Some(1),
        message: None,
        since: Time(at(ENDED + 1)),
        members: vec![0],
        suspects: Vec::new(),
    }
}

fn ran(member: u32) -> MemberEnd {
    MemberEnd {
        member,
        began: Some(at(BEGAN)),
        ended: Some(at(ENDED)),
    }
}

fn judged(end: &Ending, places: &[Place]) -> (Verdict, V) {
    let members: Vec<_> = places.iter().map(|place| ran(place.member)).collect();
    match weigh(end, &members, places, at(ENDED + 12)) {
        Weighed::Found(found) => (found.verdict, found.reason),
        other => panic!("{other:?}"),
    }
}

fn exited(faults: Vec<DeviceFault>) -> (Verdict, V) {
    judged(&end(R::ExitedNonZero), &[place(0, faults)])
}

#[test]
fn a_program_that_fails_on_a_gpu_that_reports_nothing_is_the_tenants() {
    assert_eq!(exited(vec![]), (Verdict::Tenant, V::ProgramExit));
}

#[test]
fn a_wrong_result_of_a_canary_is_the_hosts_and_the_same_code_of_a_tenants_program_is_not() {
    let code = Ending {
        exit_code: Some(gridstake_crds::measurement::WRONG_RESULT_EXIT_CODE),
        ..end(R::ExitedNonZero)
    };
    let found = Ending {
        hint: Some(V::WrongResult),
        ..code.clone()
    };
    assert_eq!(
        judged(&code, &[place(0, vec![])]),
        (Verdict::Tenant, V::ProgramExit)
    );
    assert_eq!(
        judged(&found, &[place(0, vec![])]),
        (Verdict::Host, V::WrongResult)
    );
    // Nobody need have watched; but what was reported explains more.
    let unwatched = Place {
        sees_gpus: false,
        ..place(0, vec![])
    };
    assert_eq!(
        judged(&found, &[unwatched]),
        (Verdict::Host, V::WrongResult)
    );
    let xid = place(0, vec![xid_at(48, ENDED)]);
    assert_eq!(judged(&found, &[xid]), (Verdict::Host, V::HardwareXid));
    let excused = Place {
        excuse: Some(Excuse::Maintenance),
        ..place(0, vec![])
    };
    assert_eq!(
        judged(&found, &[excused]),
        (Verdict::Infrastructure, V::Maintenance)
    );
}

#[test]
fn xids_that_programs_cause_are_the_tenants_whatever_else_follows_from_any_end() {
    for number in [13, 31, 68] {
        assert_eq!(
            exited(vec![xid_at(number, ENDED)]),
            (Verdict::Tenant, V::ProgramXid),
            "{number}"
        );
    }
    for number in [43, 45, 109] {
        assert_eq!(
            exited(vec![xid_at(number, ENDED)]),
            (Verdict::Tenant, V::ProgramExit),
            "{number}"
        );
    }
}

#[test]
fn no_xid_that_programs_cause_ever_makes_it_the_hosts() {
    for number in xid::APPLICATION {
        for second in [BEGAN, ENDED - 30, ENDED, ENDED + 1] {
            let (verdict, _) = exited(vec![xid_at(number, second)]);
            assert_eq!(verdict, Verdict::Tenant, "{number} at {second}");
        }
    }
}

#[test]
fn every_xid_against_the_hardware_just_before_the_end_is_the_hosts() {
    for number in xid::HARDWARE {
        for before in [0, 1, 30, 60] {
            assert_eq!(
                exited(vec![xid_at(number, ENDED - before)]),
                (Verdict::Host, V::HardwareXid),
                "{number} {before} s before"
            );
        }
    }
    assert_eq!(
        exited(vec![xid_at(94, ENDED)]),
        (Verdict::Host, V::MemoryFault)
    );
}

#[test]
fn a_fault_that_was_long_before_or_after_has_nothing_to_do_with_it() {
    for second in [BEGAN - 5, ENDED - 62, ENDED + 4] {
        assert_eq!(
            exited(vec![xid_at(79, second)]),
            (Verdict::Tenant, V::ProgramExit),
            "{second}"
        );
    }
}

#[test]
fn the_clean_up_after_a_hardware_fault_does_not_speak_for_the_host_and_a_fault_of_the_program_leaves_it_open()
 {
    assert_eq!(
        exited(vec![xid_at(48, ENDED - 1), xid_at(45, ENDED)]),
        (Verdict::Host, V::HardwareXid)
    );
    for (program, hardware) in [(ENDED - 1, ENDED), (ENDED, ENDED - 1)] {
        assert_eq!(
            exited(vec![xid_at(31, program), xid_at(48, hardware)]),
            (Verdict::Ambiguous, V::SignalsDisagree)
        );
    }
    // Nothing that a program does makes a GPU fall off the bus.
    let lost = fault(K::GpuLost, None, ENDED - 2, ENDED + 8);
    assert_eq!(
        exited(vec![lost, xid_at(31, ENDED)]),
        (Verdict::Host, V::GpuLost)
    );
}

#[test]
fn what_may_be_eithers_is_nobodys() {
    for number in [63, 92, 999] {
        assert_eq!(
            exited(vec![xid_at(number, ENDED)]),
            (Verdict::Ambiguous, V::SignalsDisagree),
            "{number}"
        );
    }
    let mut place = place(0, vec![xid_at(48, ENDED)]);
    place.gpus_are_known = false;
    assert_eq!(
        judged(&end(R::ExitedNonZero), &[place]),
        (Verdict::Ambiguous, V::SignalsDisagree),
        "it is not known whose GPU it was"
    );
}

#[test]
fn heat_and_rows_that_wait_for_a_reset_end_no_program() {
    for kind in [K::ThermalThrottling, K::PowerThrottling, K::RowRemapPending] {
        assert_eq!(
            exited(vec![fault(kind, None, BEGAN, ENDED)]),
            (Verdict::Tenant, V::ProgramExit),
            "{kind}"
        );
    }
}

#[test]
fn one_gpu_brings_down_a_whole_gang_and_only_its_node_answers_for_it() {
    let members = [ran(0), ran(1), ran(2)];
    let places = [
        place(0, vec![]),
        place(1, vec![xid_at(79, ENDED - 3)]),
        place(2, vec![]),
    ];
    let weighed = weigh(&end(R::ExitedNonZero), &members, &places, at(ENDED + 12));
    let expected = Finding {
        verdict: Verdict::Host,
        reason: V::HardwareXid,
        members: vec![1],
    };
    assert_eq!(weighed, Weighed::Found(expected));
}

#[test]
fn agents_are_waited_for_until_they_have_told_all_and_not_for_ever() {
    let mut late = place(0, vec![]);
    late.told_until_ms = Some(ms(ENDED) + SAMPLE_LATE_MS - 1);
    let look = |place: &Place, now: i64| {
        weigh(
            &end(R::ExitedNonZero),
            &[ran(0)],
            std::slice::from_ref(place),
            at(now),
        )
    };
    assert_eq!(look(&late, ENDED + 5), Weighed::Wait(at(ENDED + 6)));
    assert_eq!(look(&late, ENDED + 45), Weighed::Wait(at(ENDED + 46)));
    let not_watched = Finding {
        verdict: Verdict::Ambiguous,
        reason: V::NotWatched,
        members: vec![0],
    };
    assert_eq!(look(&late, ENDED + 46), Weighed::Found(not_watched.clone()));
    late.is_heard = false;
    assert_eq!(look(&late, ENDED + 5), Weighed::Found(not_watched));
}

#[test]
fn a_failure_that_nobody_watched_is_nobodys() {
    let blind: [fn(&mut Place); 5] = [
        |place| place.gaps = vec![(ms(ENDED - 30), ms(ENDED - 20))],
        |place| place.told_until_ms = None,
        |place| place.told_until_ms = Some(ms(ENDED)),
        |place| place.sees_gpus = false,
        |place| place.loss = Loss::Alone,
    ];
    for (number, blind) in blind.iter().enumerate() {
        let mut place = place(0, vec![]);
        blind(&mut place);
        let weighed = weigh(&end(R::ExitedNonZero), &[ran(0)], &[place], at(ENDED + 60));
        let Weighed::Found(found) = weighed else {
            panic!("{number}")
        };
        assert_eq!(
            (found.verdict, found.reason),
            (Verdict::Ambiguous, V::NotWatched),
            "{number}"
        );
    }
}

#[test]
fn a_process_that_was_killed_from_outside_is_nobodys() {
    for (code, expected) in [
        (137, (Verdict::Ambiguous, V::Killed)),
        (143, (Verdict::Ambiguous, V::Killed)),
        (139, (Verdict::Tenant, V::ProgramExit)),
        (134, (Verdict::Tenant, V::ProgramExit)),
    ] {
        let end = Ending {
            exit_code: Some(code),
            ..end(R::ExitedNonZero)
        };
        assert_eq!(judged(&end, &[place(0, vec![])]), expected, "{code}");
    }
}

#[test]
fn a_node_that_is_lost_alone_is_the_hosts_and_one_that_is_lost_with_others_is_not() {
    let lost = |loss| Place {
        loss,
        is_heard: false,
        ..place(0, vec![])
    };
    for (loss, expected) in [
        (Loss::Alone, (Verdict::Host, V::NodeLost)),
        (
            Loss::Together(1),
            (Verdict::Infrastructure, V::LostTogether),
        ),
        (Loss::Deleted, (Verdict::Infrastructure, V::NodeDeleted)),
    ] {
        assert_eq!(
            judged(&end(R::NodeLost), &[lost(loss)]),
            expected,
            "{loss:?}"
        );
    }
}

#[test]
fn announced_maintenance_and_an_amnesty_excuse_the_host_and_never_the_program() {
    for (excuse, reason) in [
        (Excuse::Maintenance, V::Maintenance),
        (Excuse::Amnesty, V::Amnesty),
    ] {
        let excused = |faults, loss| Place {
            excuse: Some(excuse),
            loss,
            ..place(0, faults)
        };
        let infrastructure = (Verdict::Infrastructure, reason);
        let lost = excused(vec![], Loss::Alone);
        assert_eq!(judged(&end(R::NodeLost), &[lost]), infrastructure);
        let broken = excused(vec![xid_at(79, ENDED)], Loss::None);
        assert_eq!(judged(&end(R::ExitedNonZero), &[broken]), infrastructure);
        let buggy = excused(vec![xid_at(31, ENDED)], Loss::None);
        assert_eq!(
            judged(&end(R::ExitedNonZero), &[buggy]),
            (Verdict::Tenant, V::ProgramXid)
        );
    }
}

#[test]
fn what_the_control_planes_words_point_to_decides_where_no_process_ran() {
    use Verdict as D;
    for (reason, hint, expected) in [
        (
            R::AdmissionFailed,
            Some(V::PlaceTaken),
            (D::Infrastructure, V::PlaceTaken),
        ),
        (
            R::AdmissionFailed,
            Some(V::AdmissionRefused),
            (D::Host, V::AdmissionRefused),
        ),
        (
            R::AdmissionFailed,
            None,
            (D::Ambiguous, V::AdmissionRefused),
        ),
        (
            R::Evicted,
            Some(V::StorageLimit),
            (D::Tenant, V::StorageLimit),
        ),
        (
            R::Evicted,
            Some(V::NodePressure),
            (D::Ambiguous, V::NodePressure),
        ),
        (
            R::Evicted,
            Some(V::Displaced),
            (D::Infrastructure, V::Displaced),
        ),
        (
            R::OutOfMemory,
            Some(V::MemoryLimit),
            (D::Tenant, V::MemoryLimit),
        ),
        (R::OutOfMemory, None, (D::Ambiguous, V::NodePressure)),
        (
            R::ImagePullFailed,
            Some(V::ImageName),
            (D::Tenant, V::ImageName),
        ),
        (R::ImagePullFailed, None, (D::Ambiguous, V::ImagePull)),
        (
            R::ContainerStartFailed,
            Some(V::ContainerConfig),
            (D::Tenant, V::ContainerConfig),
        ),
        (
            R::ContainerStartFailed,
            Some(V::GpuRuntime),
            (D::Host, V::GpuRuntime),
        ),
        (
            R::ContainerStartFailed,
            None,
            (D::Ambiguous, V::ContainerStart),
        ),
        (
            R::NodeLost,
            Some(V::NodeShutdown),
            (D::Host, V::NodeShutdown),
        ),
        (
            R::NodeLost,
            Some(V::NodeDeleted),
            (D::Infrastructure, V::NodeDeleted),
        ),
        (R::PodDeleted, None, (D::Ambiguous, V::PodDeleted)),
        (R::StartTimeout, None, (D::Ambiguous, V::NotStarted)),
        (R::PlacementLost, None, (D::Infrastructure, V::PlaceTaken)),
    ] {
        let end = Ending {
            hint,
            ..end(reason)
        };
        assert_eq!(
            judged(&end, &[place(0, vec![])]),
            expected,
            "{reason} {hint:?}"
        );
    }
}

#[test]
fn what_did_not_fail_has_no_verdict() {
    for reason in [
        R::Succeeded,
        R::Suspended,
        R::EscrowExhausted,
        R::Reclaimed,
        R::Preempted,
        R::Deleted,
        R::RunTimeout,
    ] {
        let places = [place(0, vec![xid_at(79, ENDED)])];
        assert_eq!(
            weigh(&end(reason), &[ran(0)], &places, at(ENDED)),
            Weighed::Nothing,
            "{reason}"
        );
    }
}

#[test]
fn a_gpu_that_stays_lost_ends_what_runs_on_it_and_one_that_comes_back_does_not() {
    let mut place = place(0, vec![fault(K::GpuLost, None, ENDED, ENDED)]);
    place.gpus[0].is_lost = true;
    place.gpus[0].is_unfit = true;
    let look = |place: &Place| unusable_gpu(place, Some(ms(BEGAN))).map(|(_, why)| why);
    assert_eq!(look(&place), Some(V::GpuLost));
    place.told_until_ms = Some(ms(ENDED + 9));
    assert_eq!(look(&place), None, "not for long enough");
    place.told_until_ms = Some(ms(ENDED + 30));
    place.gpus[0].is_lost = false;
    assert_eq!(look(&place), None, "it is back");
    place.gpus[0].is_lost = true;
    let just_now = fault(K::GpuLost, None, ENDED + 25, ENDED + 25);
    place.gpus[0].faults.insert(0, just_now);
    assert_eq!(look(&place), None, "it was back meanwhile");
}

#[test]
fn a_gpu_that_is_lost_again_says_nothing_about_an_end_between_its_losses() {
    let mut place = place(
        0,
        vec![
            fault(K::GpuLost, None, ENDED + 60, ENDED + 60),
            fault(K::GpuLost, None, BEGAN + 5, BEGAN + 9),
        ],
    );
    place.gpus[0].is_lost = true;
    assert_eq!(
        judged(&end(R::ExitedNonZero), &[place]),
        (Verdict::Tenant, V::ProgramExit)
    );
}

#[test]
fn a_gpu_that_was_unfit_before_the_member_began_ends_it_and_one_that_became_so_since_does_not() {
    for (second, expected) in [(BEGAN - 60, Some(V::UnfitGpu)), (BEGAN + 60, None)] {
        let mut place = place(0, vec![xid_at(48, second)]);
        place.gpus[0].is_unfit = true;
        assert_eq!(
            unusable_gpu(&place, Some(ms(BEGAN))).map(|(_, why)| why),
            expected
        );
        place.gpus_are_known = false;
        assert_eq!(unusable_gpu(&place, Some(ms(BEGAN))), None);
    }
}

fn any_fault() -> impl Strategy<Value = DeviceFault> {
    let kinds = prop::sample::select(K::ALL);
    let numbers = prop::sample::select(vec![13_u32, 31, 43, 45, 48, 63, 74, 79, 94, 95, 119, 7]);
    (kinds, numbers, -100_i64..1_100, 0_i64..100).prop_map(|(kind, number, first, length)| {
        let number = (kind == K::Xid).then_some(number);
        fault(kind, number, BEGAN + first, BEGAN + first + length)
    })
}

proptest! {
    /// The guarantee to providers: without something reported against their own GPU near the end, no program's end is theirs.
    #[test]
    fn a_process_end_is_the_hosts_only_with_a_fault_of_the_hardware_near_it(
        faults in prop::collection::vec(any_fault(), 0..6), code in 1_i32..256,
    ) {
        let end = Ending { exit_code: Some(code), ..end(R::ExitedNonZero) };
        let (verdict, _) = judged(&end, &[place(0, faults.clone())]);
        let near = |fault: &DeviceFault| {
            fault.first_ms <= ms(ENDED) + SAMPLE_LATE_MS && fault.last_ms + CAUSE_MS >= ms(ENDED)
        };
        let is_hardware = |fault: &DeviceFault| match fault.kind {
            K::Xid => fault.xid.is_some_and(|n| n == 94 || xid::HARDWARE.contains(&n)),
            K::GpuLost | K::EccUncorrectable | K::RowRemapFailed => true,
            _ => false,
        };
        if verdict == Verdict::Host {
            prop_assert!(faults.iter().any(|fault| near(fault) && is_hardware(fault)));
        }
    }

    /// More that speaks for the program never makes it the host's.
    #[test]
    fn a_fault_of_the_program_more_never_turns_a_verdict_against_the_host(
        faults in prop::collection::vec(any_fault(), 0..6), second in -60_i64..2,
    ) {
        let before = exited(faults.clone()).0;
        let mut more = faults;
        more.push(xid_at(31, ENDED + second));
        if before != Verdict::Host {
            prop_assert_ne!(exited(more).0, Verdict::Host);
        }
    }

    #[test]
    fn weighing_ends(faults in prop::collection::vec(any_fault(), 0..4), told in prop::option::of(0_i64..2_000), heard: bool) {
        let mut seen = place(0, faults);
        seen.told_until_ms = told.map(|second| ms(BEGAN + second));
        seen.is_heard = heard;
        let weighed = weigh(&end(R::ExitedNonZero), &[ran(0)], &[seen], at(ENDED + 46));
        prop_assert!(matches!(weighed, Weighed::Found(_)));
    }
}
