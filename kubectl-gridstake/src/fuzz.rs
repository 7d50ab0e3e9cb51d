//! What comes from outside is fed to its parsers, damaged: saved answers of an endpoint, messages of the operator, what people type.

use alloy::primitives::{Address, B256, U256};
use gridstake_fuzz::{Verdict, corpus, fuzz};

use crate::{
    cli::{JobName, JobOrName},
    end::End,
    explain::waiting,
    verify::answers::{Answers, Input, SettledBatch, Slash, Stated},
};

fn text(bytes: &[u8], parser: impl FnOnce(&str) -> Verdict) -> Verdict {
    std::str::from_utf8(bytes).map_or(Verdict::Refused, parser)
}

fn seeds(texts: &[&str]) -> Vec<Vec<u8>> {
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}

#[test]
fn fuzz_saved_answers_of_an_endpoint() {
    let hash = B256::repeat_byte(7);
    let answers = Answers {
        chain_id: 31337,
        settlement: Address::repeat_byte(1),
        lane: 7,
        block: 100,
        time: 1_800_000_000,
        head_sequence: 1,
        head_hash: hash,
        batches: vec![SettledBatch {
            sequence: 1,
            chain_hash: hash,
            usage_root: hash,
            summary: U256::from(1_u64 << 32),
            amounts: vec![0; 8].into(),
            left_out: [(1, U256::from(5_u64))].into(),
            statements: vec![Stated {
                kind: 1,
                number: 2,
                subject: hash,
                content: hash,
            }],
            transaction: hash,
            block: 99,
            timestamp: 1_799_999_999,
            input: Some(Input {
                previous: B256::ZERO,
                data: vec![1, 0, 0, 0, 0, 0, 0].into(),
            }),
        }],
        operators: Some([(2, [Address::repeat_byte(3)].into())].into()),
        slashes: Some(vec![Slash {
            id: U256::from(1_u64),
            provider: 2,
            taken: 5,
            timestamp: 1_799_999_999,
        }]),
    };
    let good = vec![
        serde_json::to_vec(&answers).unwrap(),
        serde_json::to_vec_pretty(&answers).unwrap(),
    ];
    fuzz("answers", corpus!("answers"), &good, |bytes| {
        let Ok(answers) = serde_json::from_slice::<Answers>(bytes) else {
            return Verdict::Refused;
        };
        let _ = answers.chain_batches(&[1].into());
        let _ = answers.slashed("2026-W48".parse().unwrap());
        let again = serde_json::from_slice::<Answers>(&serde_json::to_vec(&answers).unwrap());
        assert_eq!(again.ok(), Some(answers));
        Verdict::Accepted
    });
}

#[test]
fn fuzz_messages_to_jobs_that_wait() {
    let good = seeds(&[
        "0/4 nodes fit: 1 ModelMismatch (A100, L4), 3 PriceTooHigh; nearest: n1 lacks 1 GPU; fits now with 1 GPU less, or a price of 0.5; first in the queue: 2 nodes are kept for it",
        "0/1 nodes fit: 1 Tainted",
    ]);
    fuzz("waiting", corpus!("waiting"), &good, |bytes| {
        text(bytes, |text| Verdict::of_option(waiting::read(text)))
    });
}

#[test]
fn fuzz_ends_and_names_that_people_type() {
    let good = seeds(&[
        "30d",
        "9223372036854775807s",
        "2027-01-01T00:00:00Z",
        "team-a/train",
        "train",
    ]);
    let now = "2026-06-01T12:00:00.5Z".parse().unwrap();
    fuzz("typed", corpus!("typed"), &good, |bytes| {
        text(bytes, |text| {
            let end = text
                .parse::<End>()
                .map(|end| end.seen_from(now, "--expires"));
            let job = text.parse::<JobName>().is_ok();
            let job_or_name = text.parse::<JobOrName>().is_ok();
            if end.is_ok() || job || job_or_name {
                Verdict::Accepted
            } else {
                Verdict::Refused
            }
        })
    });
}
