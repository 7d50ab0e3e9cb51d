use proptest::prelude::*;

use super::*;

const CLUSTER: &str = "0f8fad5b-d9cb-469f-a165-70867728950e";

fn node(name: &str) -> Node {
    Node {
        name: name.to_owned(),
        labels: [("zone \"a\"".to_owned(), "é\u{1}".to_owned())].into(),
        taints: vec![Taint {
            key: "k".to_owned(),
            value: None,
            effect: "NoSchedule".to_owned(),
        }],
        cordoned: true,
        namespaces: Some(vec![Requirement {
            key: "team".to_owned(),
            operator: "In".to_owned(),
            values: vec!["a".to_owned()],
        }]),
        allocatable: Amounts {
            cpu_milli: 8000,
            gpus: 8,
            other: [("example.com/nic".to_owned(), 2)].into(),
            ..Amounts::default()
        },
        gpus: vec![Gpu {
            model: "NVIDIA L4".to_owned(),
            memory_mib: 23_034,
            compute_capability: Some("8.9".to_owned()),
            usable: true,
        }],
        withheld: Some("Drained".to_owned()),
        closes_at_ms: Some(1_800_000_000_000),
        price: u128::from(u64::MAX) * 3,
        region: Some("eu".to_owned()),
        jurisdiction: None,
        reputation: 500,
        bonded: true,
        chain: Some("anvil".to_owned()),
        provider: Some(7),
        owner: Some("0x01".to_owned()),
        stake: 20_001,
        weight: 12,
        taken: Amounts::default(),
    }
}

fn decided(state: B256) -> Decided {
    Decided {
        hash: B256::repeat_byte(1),
        state,
        at_ms: 1_800_000_000_000,
        draw: "gridstake-draw/1".to_owned(),
        job: CLUSTER.to_owned(),
        attempt: 1,
        block: B256::ZERO,
        previous: B256::ZERO,
        snapshot: 9,
        candidates: 1,
        total_weight: 12,
        drawn: vec![Drawn {
            partly_used: false,
            total: 12,
            number: 3,
            winner: "n1".to_owned(),
        }],
        rejections: [("Tainted".to_owned(), 2)].into(),
        request: Request {
            members: 1,
            each: Amounts {
                gpus: 1,
                ..Amounts::default()
            },
            affinity: Some(vec![]),
            closeness: Some(Closeness {
                key: "rack".to_owned(),
                required: true,
            }),
            avoid: ["n9".to_owned()].into(),
            ..Request::default()
        },
    }
}

/// The lines of these events, each decision with the state before it.
fn lines_of(mut state: B256, events: Vec<Event>) -> Vec<Vec<u8>> {
    let mut written = Vec::new();
    for mut event in events {
        if let Event::Decision(decided) = &mut event {
            decided.state = state;
        }
        let line = line(&event).unwrap();
        state = next_state(state, &line);
        written.push(line);
    }
    written
}

fn events() -> Vec<Event> {
    vec![
        Event::Node(Box::new(node("n1"))),
        Event::Cuts(Cuts {
            at_ms: 1_799_999_999_999,
            percent: 20,
            cuts: vec![Cut {
                model: "NVIDIA L4".to_owned(),
                owner: "0x01".to_owned(),
                level: u64::MAX,
                sum: 12,
            }],
        }),
        Event::Taken(Taken {
            node: "n1".to_owned(),
            amounts: Amounts {
                gpus: 2,
                pods: 1,
                ..Amounts::default()
            },
        }),
        Event::Decision(Box::new(decided(B256::ZERO))),
        Event::Undone(Undone {
            decision: B256::repeat_byte(1),
            why: "Outdated".to_owned(),
        }),
        Event::Gone("n1".to_owned()),
    ]
}

/// A part with an event of each kind.
pub(crate) fn part() -> (Head, Vec<u8>) {
    let head = Head::new(CLUSTER, "operator-1/5", 7, None, None);
    let file = encode(&head, &lines_of(head.state, events())).unwrap();
    (head, file)
}

#[test]
fn what_is_written_is_read_and_ends_in_the_state_from_which_the_next_part_goes_on() {
    let (head, file) = part();
    let read = decode(&file).unwrap();
    assert_eq!(read.head, head);
    let mut found: Vec<Event> = read.events.into_iter().map(|(_, event)| event).collect();
    for event in &mut found {
        if let Event::Decision(decided) = event {
            decided.state = B256::ZERO;
        }
    }
    assert_eq!(found, events());

    let next = Head::new(
        CLUSTER,
        "operator-1/5",
        8,
        Some(super::super::address(&file)),
        Some(read.end),
    );
    assert!(!next.whole);
    let more = vec![Event::Decision(Box::new(decided(B256::ZERO)))];
    let second = encode(&next, &lines_of(next.state, more)).unwrap();
    assert!(decode(&second).is_ok());
}

#[test]
fn a_decision_on_another_fleet_than_the_one_that_is_told_is_refused() {
    let (head, _) = part();
    let mut lines = lines_of(head.state, events());
    // As if the node had had another weight.
    let mut other = node("n1");
    other.weight += 1;
    lines[0] = line(&Event::Node(Box::new(other))).unwrap();
    let read = decode(&encode(&head, &lines).unwrap());
    assert!(matches!(read, Err(Unreadable::State { .. })), "{read:?}");
    // As if it had not been there.
    lines.remove(0);
    let read = decode(&encode(&head, &lines).unwrap());
    assert!(matches!(read, Err(Unreadable::State { .. })), "{read:?}");
}

#[test]
fn a_whole_part_begins_with_the_state_of_its_writer() {
    let mut head = part().0;
    head.state = B256::repeat_byte(3);
    let read = decode(&encode(&head, &[]).unwrap());
    assert!(matches!(read, Err(Unreadable::Origin { .. })), "{read:?}");
}

#[test]
fn another_format_or_version_is_refused() {
    let mut head = part().0;
    for version in [0, 3] {
        head.version = version;
        assert_eq!(
            decode(&encode(&head, &[]).unwrap()),
            Err(Unreadable::Format)
        );
    }
    assert!(decode(b"").is_err());
    assert!(decode(b"{}\n").is_err());
}

#[test]
fn what_is_said_twice_or_in_another_way_or_not_known_is_refused() {
    let head = part().0;
    for wrong in [
        r#"{"gone": "n1""#,
        r#"{"gone":"n1","gone":"n2""#,
        r#"{"taken":{"node":"n1","amounts":{"gpus":0}}"#,
        r#"{"taken":{"node":"n1","amounts":{},"more":1}"#,
        r#"{"taken":{"amounts":{},"node":"n1"}"#,
        r#"{"other":1"#,
    ] {
        let check = keccak256(wrong);
        let text = format!(r#"{wrong},"check":"{check}"}}"#);
        let read = decode(&encode(&head, &[text.into_bytes()]).unwrap());
        assert!(
            matches!(read, Err(Unreadable::Line { .. })),
            "{wrong}: {read:?}"
        );
    }
}

#[test]
fn the_indices_sort_by_number() {
    assert!(index_path(CLUSTER, 9) < index_path(CLUSTER, 10));
    assert!(newest_path(CLUSTER).starts_with(&folder(CLUSTER)));
}

proptest! {
    #[test]
    fn a_byte_that_is_changed_or_missing_is_found(at: prop::sample::Index, bit in 0_u8..8, cut: prop::sample::Index) {
        let (_, file) = part();
        let mut changed = file.clone();
        changed[at.index(file.len())] ^= 1 << bit;
        prop_assert!(decode(&changed).is_err());
        // A line that is missing altogether is found by who reads the next part, or the file's address.
        let cut = cut.index(file.len());
        prop_assert!(cut == 0 || file[cut - 1] == b'\n' || decode(&file[..cut]).is_err());
    }
}
