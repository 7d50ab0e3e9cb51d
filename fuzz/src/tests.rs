use std::panic::catch_unwind;

use super::*;

/// The folder of a corpus that there is not.
const NONE: &str = "no such folder";

fn number(bytes: &[u8]) -> Option<u64> {
    std::str::from_utf8(bytes).ok()?.parse().ok()
}

#[test]
fn a_parser_that_refuses_what_is_damaged_passes() {
    fuzz("sound", NONE, &[b"1234".to_vec()], |bytes| {
        Verdict::of_option(number(bytes))
    });
}

#[test]
fn a_panic_on_a_damaged_input_fails_the_target() {
    let outcome = catch_unwind(|| {
        fuzz("panics", NONE, &[b"12".to_vec()], |bytes| {
            // The mistake: the number is wider than it may be.
            let wide = number(bytes).unwrap_or(0);
            u32::try_from(wide).unwrap();
            Verdict::of_option(number(bytes))
        });
    });
    assert!(outcome.is_err());
}

#[test]
fn a_corpus_that_is_no_longer_accepted_fails_the_target() {
    let outcome = catch_unwind(|| {
        fuzz("stale", NONE, &[b"x".to_vec()], |bytes| {
            Verdict::of_option(number(bytes))
        });
    });
    assert!(outcome.is_err());
}

#[test]
fn a_target_without_a_corpus_fails() {
    let outcome = catch_unwind(|| fuzz("empty", NONE, &[], |_| Verdict::Accepted));
    assert!(outcome.is_err());
}

#[test]
fn the_same_seed_makes_the_same_damage_and_each_run_another() {
    let inputs = [br#"{"count": 17, "name": "a"}"#.to_vec()];
    let of = |run: u8| damage::damaged(&inputs, &mut Random::new(&[&[run]]));
    let all: std::collections::BTreeSet<_> = (0..200).map(of).collect();
    assert!(all.len() > 150, "{} of 200 differ", all.len());
    for run in 0..200 {
        assert_eq!(of(run), of(run));
    }
}

#[test]
fn inputs_stay_within_the_largest() {
    let inputs = [vec![b'7'; 1000], Vec::new()];
    for run in 0..2000_u32 {
        let input = damage::damaged(&inputs, &mut Random::new(&[&run.to_be_bytes()]));
        assert!(input.len() <= LARGEST);
    }
}
