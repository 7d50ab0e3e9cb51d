//! What comes from outside is fed to its parsers, damaged.

use alloy_primitives::{B256, U256};
use gridstake_fuzz::{Verdict, corpus, fuzz};

use crate::{
    amount,
    archive::{self, decisions, examples::example, uptime as archived_uptime},
    batch,
    earnings::LaneId,
    signature,
    statement::Statement,
    uptime::{EpochUptime, NodeUptime},
    verify::{
        evidence::{Keys, Signatures},
        file::{self, File},
    },
    week::Week,
};

/// Text targets take what is no UTF-8 for refused: no caller has such a text.
fn text(bytes: &[u8], parser: impl FnOnce(&str) -> Verdict) -> Verdict {
    std::str::from_utf8(bytes).map_or(Verdict::Refused, parser)
}

#[test]
fn fuzz_payloads_of_batches() {
    let (archived, chain) = example();
    let inventory = Statement {
        kind: 1,
        number: 7,
        subject: B256::repeat_byte(1),
        content: B256::repeat_byte(2),
    };
    let entries: Vec<_> = archived.entries.iter().map(|entry| entry.entry).collect();
    let seeds = [
        chain.data.clone(),
        batch::encode(&entries, &[inventory]).unwrap(),
        batch::encode(&[], &[inventory]).unwrap(),
    ];
    fuzz("batch", corpus!("batch"), &seeds, |bytes| {
        let Ok(read) = batch::decode(bytes) else {
            return Verdict::Refused;
        };
        assert!(
            read.entries.len() <= 8 * bytes.len(),
            "an entry takes a bit at least"
        );
        assert_eq!(read.groups.len(), read.units.len());
        // Its amounts may be too large to be paid; that is an error.
        let _ = read.amounts();
        // What is read is what was meant: encoded anew, it is read as the same.
        if let Ok(written) = batch::encode(&read.entries, &read.statements) {
            let again = batch::decode(&written).unwrap();
            assert_eq!(again.entries, read.entries);
            assert_eq!(again.statements, read.statements);
        }
        Verdict::Accepted
    });
}

#[test]
fn fuzz_outcomes_of_batches() {
    // 32 bytes of summary, then the amounts.
    let seed = [U256::from(77_u64).to_be_bytes::<32>().as_slice(), &[0; 16]].concat();
    fuzz("outcome", corpus!("outcome"), &[seed], |bytes| {
        let Some((summary, amounts)) = bytes.split_at_checked(32) else {
            return Verdict::Refused;
        };
        Verdict::of(batch::outcome(U256::from_be_slice(summary), amounts))
    });
}

#[test]
fn fuzz_archived_batches() {
    let (archived, chain) = example();
    let seed = archive::encode(&archived);
    fuzz(
        "archived-batch",
        corpus!("archived-batch"),
        std::slice::from_ref(&seed),
        |bytes| {
            let file = File {
                name: "file",
                bytes,
                address: None,
            };
            let verdict = file::verify(file, &chain, Signatures::Every, &mut Keys::default());
            // The chain knows what was settled: a file that says anything else about it is not accepted.
            assert!(
                verdict.is_err() || bytes == seed,
                "another file passes for the one that was settled"
            );
            Verdict::of(verdict)
        },
    );
}

/// The lines alone, with right checks or wrong ones: the verification of a whole file ends at the first that is wrong.
#[test]
fn fuzz_lines_of_archived_batches() {
    let (archived, _) = example();
    let seeds: Vec<Vec<u8>> = archive::encode(&archived)
        .split_inclusive(|byte| *byte == b'\n')
        .map(<[u8]>::to_vec)
        .collect();
    fuzz("archived-line", corpus!("archived-line"), &seeds, |bytes| {
        let mut verdict = Verdict::Refused;
        for place in archive::lines(bytes) {
            let reader = || archive::Reader::new(bytes, place.clone());
            if reader().head().is_ok() || reader().certificate().is_ok() || reader().entry().is_ok()
            {
                verdict = Verdict::Accepted;
            }
        }
        verdict
    });
}

#[test]
fn fuzz_archived_uptime() {
    let lane = LaneId {
        chain_id: 8453,
        settlement: alloy_primitives::Address::repeat_byte(0xab),
        lane: 7,
    };
    let node = |node: &str| NodeUptime {
        node: node.to_owned(),
        provider: 3,
        watched: 0x3ff,
        up: 1,
        gpus: 8,
        healthy: 7,
    };
    let epoch = EpochUptime {
        epoch: 2_993_184,
        previous: B256::repeat_byte(5),
        nodes: vec![node("n\"2"), node("n1")],
    };
    let seed = archived_uptime::encode(lane, &epoch);
    fuzz(
        "archived-uptime",
        corpus!("archived-uptime"),
        &[seed],
        |bytes| {
            let Ok((lane, epoch)) = archived_uptime::decode(bytes) else {
                return Verdict::Refused;
            };
            assert_eq!(archived_uptime::encode(lane, &epoch), bytes);
            Verdict::Accepted
        },
    );
}

/// What an input says is given its right check: who forges a log can do that as well.
#[test]
fn fuzz_logs_of_decisions() {
    let (_, file) = decisions::tests::part();
    fuzz(
        "decisions",
        corpus!("decisions"),
        &[unchecked(&file)],
        |bytes| {
            let checked = checked(bytes);
            let Ok(part) = decisions::decode(&checked) else {
                return Verdict::Refused;
            };
            let lines: Vec<Vec<u8>> = part
                .events
                .iter()
                .map(|(_, event)| decisions::line(event).unwrap())
                .collect();
            assert_eq!(decisions::encode(&part.head, &lines).unwrap(), checked);
            Verdict::Accepted
        },
    );
}

/// The lines of a log without their checks.
fn unchecked(file: &[u8]) -> Vec<u8> {
    let text = std::str::from_utf8(file).unwrap();
    let body = |line: &str| format!("{}\n", line.split_once(r#","check":"#).unwrap().0);
    text.lines().map(body).collect::<String>().into_bytes()
}

/// The same with their checks; each line lacks only its closing brace.
fn checked(bodies: &[u8]) -> Vec<u8> {
    let mut file = Vec::new();
    for body in bodies.split_inclusive(|byte| *byte == b'\n') {
        let body = body.strip_suffix(b"\n").unwrap_or(body);
        let check = alloy_primitives::keccak256(body);
        file.extend(body);
        file.extend(format!(",\"check\":\"{check}\"}}\n").into_bytes());
    }
    file
}

#[test]
fn fuzz_entries_of_an_archives_index() {
    let seed = archive::index_entry(B256::repeat_byte(0xab)).into_bytes();
    fuzz("index-entry", corpus!("index-entry"), &[seed], |bytes| {
        let Some(address) = archive::read_index_entry(bytes) else {
            return Verdict::Refused;
        };
        assert_eq!(archive::index_entry(address).as_bytes(), bytes);
        Verdict::Accepted
    });
}

#[test]
fn fuzz_signatures() {
    let (archived, _) = example();
    let signed = archived.certificates[0].signature;
    let seed = signature::text(&signed).into_bytes();
    fuzz("signature", corpus!("signature"), &[seed], |bytes| {
        text(bytes, |text| {
            let Ok(read) = signature::parse(text) else {
                return Verdict::Refused;
            };
            let _ = signature::signer(B256::repeat_byte(1), &read);
            let _ = signature::compact(&read);
            assert_eq!(signature::parse(&signature::text(&read)), Ok(read));
            Verdict::Accepted
        })
    });
}

#[test]
fn fuzz_weeks() {
    fuzz("week", corpus!("week"), &[b"2026-W48".to_vec()], |bytes| {
        text(bytes, |text| {
            let Ok(week) = text.parse::<Week>() else {
                return Verdict::Refused;
            };
            assert_eq!(week.to_string(), text);
            let _ = (week.number(), week.from());
            Verdict::Accepted
        })
    });
}

/// Three numbers that a record or a contract may name: GPU-milliseconds, and two prices.
#[test]
fn fuzz_amounts() {
    let seed = [3_600_000_u64, 1_000_000_000_000, 720_000]
        .map(u64::to_be_bytes)
        .concat();
    fuzz("amount", corpus!("amount"), &[seed], |bytes| {
        let mut numbers = bytes
            .chunks_exact(8)
            .map(|word| u64::from_be_bytes(word.try_into().unwrap()));
        let (Some(units), Some(wire), Some(nano)) =
            (numbers.next(), numbers.next(), numbers.next())
        else {
            return Verdict::Refused;
        };
        Verdict::of(
            amount::group_amount(units, wire).and(amount::record_amount(units, nano.into())),
        )
    });
}
