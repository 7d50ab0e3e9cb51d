use alloy_primitives::B256;
use proptest::prelude::*;

use super::{
    Fault,
    all::{self, Item, LaneError},
    chain::{ChainBatch, Contradiction, is_whole},
    evidence::{Keys, Signatures},
    file::{self, File, FileError, Verified},
};
use crate::{
    archive::{
        self, ArchivedBatch, Content,
        examples::{batch_of, example, used},
    },
    checkpoint,
};

fn verified(bytes: &[u8], chain: &ChainBatch) -> Result<Verified, FileError> {
    let file = File {
        name: "file",
        bytes,
        address: None,
    };
    file::verify(file, chain, Signatures::Last, &mut Keys::default())
}

#[allow(clippy::unnecessary_box_returns, reason = "it comes out of an error")]
fn finding(bytes: &[u8], chain: &ChainBatch) -> Box<super::Finding> {
    match verified(bytes, chain) {
        Err(FileError::Wrong(finding)) => finding,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_file_is_verified_with_its_amounts_and_signatures() {
    let (batch, chain) = example();
    let verified = verified(&archive::encode(&batch), &chain).unwrap();
    let summary = &verified.summary;
    assert_eq!((summary.entries, summary.left_out), (4, 0));
    // 10⁻⁶ token per GPU-millisecond: 1,000 nano-tokens.
    assert_eq!(summary.gpu_millis, 3_600_000 + 3_599_500 + 10);
    assert_eq!(summary.paid[&(1, 2)], 1000 * u128::from(summary.gpu_millis));
    assert_eq!(summary.paid[&(0, 2)], 77);
    assert_eq!((summary.evidenced, summary.without_evidence), (2, 1));
    assert_eq!(summary.signatures, 2, "the last one of each slice");
    let certified = &verified.certified[0];
    assert_eq!(certified.certificate.provider, 2);
    assert_eq!(
        certified.signer,
        archive::examples::address_of(&archive::examples::key(3))
    );
}

/// Replaces the first `from` after `mark` by `to`, and says where the two begin to differ.
fn changed(batch: &ArchivedBatch, mark: &str, from: &str, to: &str) -> (Vec<u8>, usize) {
    let text = String::from_utf8(archive::encode(batch)).unwrap();
    let begin = text.find(mark).unwrap();
    let at = begin + text[begin..].find(from).unwrap();
    let mut changed = text.clone();
    changed.replace_range(at..at + from.len(), to);
    let first = text
        .bytes()
        .zip(changed.bytes())
        .position(|(a, b)| a != b)
        .unwrap();
    (changed.into_bytes(), first)
}

#[test]
#[allow(clippy::too_many_lines, reason = "a table")]
fn what_is_wrong_is_named_with_its_first_byte() {
    use checkpoint::Fault as Is;
    let (batch, chain) = example();
    for (mark, from, to, fault, exact) in [
        ("", "gridstake", "gridsteak", Fault::Head, true),
        (
            "",
            "\"chainId\":31337",
            "\"chainId\":31338",
            Fault::Head,
            true,
        ),
        (
            "",
            "\"contract\":\"0x51",
            "\"contract\":\"0x61",
            Fault::Head,
            true,
        ),
        ("", "\"lane\":7", "\"lane\":8", Fault::Head, true),
        ("", "\"sequence\":1", "\"sequence\":2", Fault::Head, true),
        (
            "",
            "\"previous\":\"0x00",
            "\"previous\":\"0x10",
            Fault::Head,
            true,
        ),
        ("", "\"data\":\"0x03", "\"data\":\"0x13", Fault::Head, true),
        (
            "",
            "\"decisionHead\":\"0xdd",
            "\"decisionHead\":\"0xde",
            Fault::Check,
            false,
        ),
        (
            "",
            "\"certificates\":1",
            "\"certificates\":2",
            Fault::Check,
            false,
        ),
        (
            "",
            "\"provider\":2,\"node\"",
            "\"provider\":3,\"node\"",
            Fault::Check,
            false,
        ),
        ("", "\"jobNo\":256", "\"jobNo\":255", Fault::Entry, true),
        ("", "\"payer\":1", "\"payer\":2", Fault::Entry, true),
        (
            "",
            "\"units\":3600000",
            "\"units\":3600001",
            Fault::Entry,
            true,
        ),
        (
            "",
            "\"record\":\"u1",
            "\"record\":\"u9",
            Fault::Content,
            false,
        ),
        ("", "\"startMs\":0", "\"startMs\":1", Fault::Content, false),
        (
            "",
            "\"gpuMillis\":3600000",
            "\"gpuMillis\":3600009",
            Fault::Content,
            false,
        ),
        (
            "",
            "\"verdict\":\"\"",
            "\"verdict\":\"Host\"",
            Fault::Content,
            false,
        ),
        (
            "",
            "\"uuid\":\"GPU-1",
            "\"uuid\":\"GPU-9",
            Fault::Evidence(Is::Head),
            false,
        ),
        (
            "",
            "\"podUid\":\"pod of u1-1-0-0\",\"key",
            "\"podUid\":\"pod of u1-1-0-9\",\"key",
            Fault::Pod,
            false,
        ),
        (
            "\"seq\":1",
            "\"toMs\":2",
            "\"toMs\":3",
            Fault::Evidence(Is::Head),
            false,
        ),
        (
            "\"seq\":1",
            "\"busyMillis\":1",
            "\"busyMillis\":2",
            Fault::Evidence(Is::Head),
            false,
        ),
        (
            "\"seq\":1",
            "\"folded\":0",
            "\"folded\":1",
            Fault::Evidence(Is::Sequence),
            false,
        ),
        (
            "",
            "\"bridged\":true",
            "\"bridged\":false",
            Fault::Check,
            false,
        ),
        (
            "",
            "\"namespace\":\"team",
            "\"namespace\":\"teal",
            Fault::Check,
            false,
        ),
        ("", "\"format\"", "format\"", Fault::Head, true),
        ("", "\"use\"", "\"Use\"", Fault::Form, false),
        (
            "",
            ",\"foreignProcesses\"",
            ",#foreignProcesses\"",
            Fault::Form,
            false,
        ),
        (
            "",
            "\"emissionOf\":\"0x",
            "\"emissionof\":\"0x",
            Fault::Form,
            false,
        ),
    ] {
        let (bytes, first) = changed(&batch, mark, from, to);
        let finding = finding(&bytes, &chain);
        assert_eq!(finding.fault, fault, "{to}: {finding}");
        assert!(finding.at.contains(&first), "{to} at {first}: {finding}");
        if exact {
            assert_eq!(finding.at.start, first, "{to}: {finding}");
        }
    }
}

#[test]
fn a_wrong_leaf_is_told_from_a_wrong_content_by_the_root() {
    let (batch, chain) = example();
    let leaf = alloy_primitives::hex::encode_prefixed(batch.entries[1].leaf);
    let other = format!("0x{}", "0".repeat(64));
    let (bytes, first) = changed(&batch, "", &leaf, &other);
    let finding = finding(&bytes, &chain);
    assert_eq!((finding.fault, finding.at.start), (Fault::Leaf, first));
}

#[test]
fn a_signature_of_another_key_is_found_and_told_from_another_key() {
    let (mut batch, chain) = example();
    let Content::Use(used) = &mut batch.entries[0].content else {
        panic!("the first entry is a slice");
    };
    let evidence = used.evidence.as_mut().unwrap();
    let right = evidence.key;
    evidence.key = alloy_primitives::Address::repeat_byte(1);
    let file = archive::encode(&batch);
    let found = finding(&file, &chain);
    assert_eq!(
        found.fault,
        Fault::Evidence(checkpoint::Fault::Signature),
        "{found}"
    );
    assert!(file[found.at.clone()].starts_with(b"\"0x0101"), "{found}");

    let Content::Use(used) = &mut batch.entries[0].content else {
        panic!("the first entry is a slice");
    };
    let evidence = used.evidence.as_mut().unwrap();
    evidence.key = right;
    evidence.checkpoints[2].signature = evidence.checkpoints[1].signature;
    let file = archive::encode(&batch);
    let found = finding(&file, &chain);
    assert_eq!(found.fault, Fault::Evidence(checkpoint::Fault::Signature));
    assert_eq!(found.at.len(), 134, "the last signature: {found}");
}

#[test]
fn an_earlier_signature_is_checked_where_every_one_is_asked_for() {
    let (mut batch, chain) = example();
    let Content::Use(used) = &mut batch.entries[0].content else {
        panic!("the first entry is a slice");
    };
    let checkpoints = &mut used.evidence.as_mut().unwrap().checkpoints;
    checkpoints[0].signature = checkpoints[1].signature;
    let bytes = archive::encode(&batch);
    assert!(
        verified(&bytes, &chain).is_ok(),
        "the last signature covers the statements before it"
    );
    let file = File {
        name: "file",
        bytes: &bytes,
        address: None,
    };
    assert!(file::verify(file, &chain, Signatures::Every, &mut Keys::default()).is_err());
}

#[test]
fn what_nothing_commits_to_is_held_by_the_address() {
    let (mut batch, chain) = example();
    let address = archive::address(&archive::encode(&batch));
    let Content::Use(used) = &mut batch.entries[0].content else {
        panic!("the first entry is a slice");
    };
    used.background.job = "another".to_owned();
    let bytes = archive::encode(&batch);
    let file = File {
        name: "file",
        bytes: &bytes,
        address: Some(address),
    };
    let error = file::verify(file, &chain, Signatures::Last, &mut Keys::default()).unwrap_err();
    assert!(
        matches!(&error, FileError::Wrong(finding) if finding.fault == Fault::Address),
        "{error}"
    );
}

#[test]
fn more_than_the_span_and_its_devices_give_is_not_accepted() {
    let mut slice = used("u1-1-0-0", "GPU-1", (0, 1000), 2);
    slice.gpu_millis = 1001;
    let (batch, chain) = batch_of(1, B256::ZERO, 256, vec![slice.clone()]);
    assert_eq!(
        finding(&archive::encode(&batch), &chain).fault,
        Fault::Billed
    );
    // What is not bridged is not billed.
    slice.gpu_millis = 1000;
    slice.evidence.as_mut().unwrap().gaps[0].bridged = false;
    slice.evidence.as_mut().unwrap().gaps[0].to_ms = 2;
    let (batch, chain) = batch_of(1, B256::ZERO, 256, vec![slice.clone()]);
    assert_eq!(
        finding(&archive::encode(&batch), &chain).fault,
        Fault::Billed
    );
    slice.gpu_millis = 998;
    let (batch, chain) = batch_of(1, B256::ZERO, 256, vec![slice]);
    assert!(verified(&archive::encode(&batch), &chain).is_ok());
}

#[test]
fn an_event_that_pays_another_amount_is_named() {
    let (batch, mut chain) = example();
    let last = chain.outcome.groups.len() - 1;
    *chain.outcome.groups[last].as_mut().unwrap() += 1;
    let found = finding(&archive::encode(&batch), &chain);
    assert_eq!((found.fault, found.at.start), (Fault::Amount, 8 * last));
    assert!(found.file.contains("BatchSettled of batch 1"), "{found}");
}

#[test]
fn a_group_that_was_left_out_and_a_number_that_was_paid_before_are_not_counted() {
    let (batch, mut chain) = example();
    // Group 0 is the emission's.
    chain.outcome.total -= chain.outcome.groups[0].unwrap();
    chain.outcome.groups[0] = None;
    let double = batch.entries[2].entry;
    chain
        .left_out
        .insert(1, alloy_primitives::U256::from(1) << (double.job_no - 224));
    let less = double.units * 1000;
    *chain.outcome.groups[1].as_mut().unwrap() -= less;
    chain.outcome.total -= less;
    (chain.outcome.paid, chain.outcome.skipped) = (2, 2);
    let verified = verified(&archive::encode(&batch), &chain).unwrap();
    assert_eq!(verified.summary.left_out, 2);
    assert!(!verified.summary.paid.contains_key(&(0, 2)));
}

#[test]
fn answers_of_the_chain_that_contradict_each_other_are_no_fault_of_the_file() {
    let (batch, chain) = example();
    let bytes = archive::encode(&batch);
    let mut other = chain.clone();
    other.data.push(0);
    assert!(matches!(
        verified(&bytes, &other),
        Err(FileError::Chain(Contradiction::Input { sequence: 1, .. }))
    ));
    let (_, second) = batch_of(
        2,
        chain.chain_hash,
        300,
        vec![used("a-1-0-0", "G", (0, 9), 1)],
    );
    let head = Some((2, second.chain_hash));
    let both = [chain.clone(), second.clone()];
    assert_eq!(is_whole(&both, head), Ok(()));
    assert_eq!(
        is_whole(&both[..1], head),
        Err(Contradiction::Head { head: 2, last: 1 })
    );
    let mut unlinked = both.clone();
    unlinked[1].previous = B256::ZERO;
    assert_eq!(
        is_whole(&unlinked, head),
        Err(Contradiction::Link { sequence: 2 })
    );
    let twice = [chain.clone(), chain];
    assert_eq!(
        is_whole(&twice, None),
        Err(Contradiction::Gap {
            before: 1,
            after: 1
        })
    );
}

/// Verifies batches of these slices as a lane.
fn lane(batches: Vec<(u64, Vec<archive::Use>)>) -> Result<u64, Fault> {
    let (mut items, mut files, mut previous) = (Vec::new(), Vec::new(), B256::ZERO);
    for (sequence, (first, slices)) in (1..).zip(batches) {
        let (batch, chain) = batch_of(sequence, previous, first, slices);
        previous = chain.chain_hash;
        let bytes = archive::encode(&batch);
        items.push(Item {
            chain,
            name: format!("batch {sequence}"),
            address: archive::address(&bytes),
        });
        files.push(bytes);
    }
    let load = |item: &Item| {
        let index = usize::try_from(item.chain.sequence - 1).unwrap();
        Ok::<_, std::io::Error>(files[index].clone())
    };
    match all::verify(&items, 2, Signatures::Last, load) {
        Ok(lane) => Ok(lane.summary.entries),
        Err(LaneError::File(FileError::Wrong(finding))) => Err(finding.fault),
        Err(other) => panic!("{other:?}"),
    }
}

#[test]
fn slices_of_a_lease_follow_each_other_and_a_gpu_is_billed_once() {
    let hour = 3_600_000;
    let slice = |record: &str, gpu: &str, from: u64, to: u64| used(record, gpu, (from, to), 2);
    let first = || (256, vec![slice("a-1-0-0", "G", 0, hour)]);
    // The emission behind each slice takes a number too.
    for (second, expected) in [
        ((300, slice("a-1-0-1", "G", hour, 2 * hour)), Ok(4)),
        (
            (300, slice("a-1-0-1", "G", hour + 1, 2 * hour)),
            Err(Fault::Slices),
        ),
        ((300, slice("a-1-0-2", "G", hour + 1, 2 * hour)), Ok(4)),
        (
            (300, slice("a-1-0-2", "G", hour - 1, 2 * hour)),
            Err(Fault::Slices),
        ),
        ((300, slice("a-1-0-0", "G", 0, hour)), Err(Fault::Slices)),
        ((256, slice("b-1-0-0", "H", 0, hour)), Err(Fault::PaidTwice)),
        ((300, slice("b-1-0-0", "H", 0, hour)), Ok(4)),
        // Within the second that the kubelet tells.
        ((300, slice("b-1-0-0", "G", hour - 1000, 2 * hour)), Ok(4)),
        (
            (300, slice("b-1-0-0", "G", hour - 1001, 2 * hour)),
            Err(Fault::Overbooked),
        ),
    ] {
        let (number, slice) = second;
        let named = format!("{} from {}", slice.record, slice.start_ms);
        assert_eq!(
            lane(vec![first(), (number, vec![slice])]),
            expected,
            "{named}"
        );
    }
}

#[test]
fn parts_of_a_gpu_make_up_no_more_than_the_whole() {
    use crate::checkpoint::{Device, StatementHasher, Subject, devices_hash, digest_of};
    let part = |record: &str, uuid: &str, share: (u32, u32)| {
        let mut slice = used(record, uuid, (0, 700_000), 1);
        let evidence = slice.evidence.as_mut().unwrap();
        let device = Device {
            uuid: uuid.to_owned(),
            parent_uuid: "GPU-0".to_owned(),
            share,
        };
        let hasher = StatementHasher::new(Subject {
            record,
            pod_uid: &slice.pod_uid,
            devices: devices_hash(std::slice::from_ref(&device)),
        });
        evidence.devices[0].device = device;
        let signed = &mut evidence.checkpoints[0];
        signed.head = hasher.head(&signed.checkpoint);
        signed.signature =
            archive::examples::sign(&archive::examples::key(9), digest_of(signed.head));
        slice.evidence_head = signed.head;
        slice.gpu_millis = 700_000 * u64::from(share.0) / u64::from(share.1);
        slice
    };
    let parts = |last: (u32, u32)| {
        vec![
            part("a-1-0-0", "MIG-1", (3, 7)),
            part("b-1-0-0", "MIG-2", (3, 7)),
            part("c-1-0-0", "MIG-3", last),
        ]
    };
    assert_eq!(lane(vec![(256, parts((1, 7)))]), Ok(4));
    assert_eq!(lane(vec![(256, parts((1, 6)))]), Err(Fault::Overbooked));
}

#[test]
fn a_file_that_was_cut_names_its_end() {
    let (batch, chain) = example();
    let file = archive::encode(&batch);
    for length in (0..file.len()).step_by(97) {
        let found = finding(&file[..length], &chain);
        assert!(
            found.at.start <= length && found.at.end >= length,
            "{length}: {found}"
        );
    }
    let longer: Vec<u8> = file.iter().chain(b"{}\n").copied().collect();
    let found = finding(&longer, &chain);
    assert_eq!((found.fault, found.at.start), (Fault::Lines, file.len()));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn a_byte_that_was_changed_is_found_where_it_is(at: prop::sample::Index, bits in 1_u8..=255) {
        let (batch, chain) = example();
        let mut file = archive::encode(&batch);
        let at = at.index(file.len());
        file[at] ^= bits;
        let found = finding(&file, &chain);
        prop_assert!(found.at.contains(&at), "byte {}: {}", at, found);
    }
}
