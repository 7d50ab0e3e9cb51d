//! Facts about consents.

use std::sync::Arc;

use alloy::signers::{SignerSync as _, local::PrivateKeySigner};

use super::*;
use crate::chain::{fixtures, view::PayerView};

fn owner() -> PrivateKeySigner {
    PrivateKeySigner::from_bytes(&B256::repeat_byte(1)).unwrap()
}

/// Lane 7 with payer 3.
fn view() -> ChainView {
    let account = PayerView {
        owner: owner().address(),
        balance: 1,
        ..PayerView::default()
    };
    ChainView {
        payers: Arc::new(BTreeMap::from([(3, Some(account)), (4, None)])),
        ..fixtures::view()
    }
}

fn signed(uid: &str, by: &PrivateKeySigner) -> String {
    let consent = Consent {
        payer: 3,
        daily_cap: 100_000_000_000,
        expires: "2027-01-01T00:00:00Z".parse().unwrap(),
        signature: String::new(),
    };
    by.sign_hash_sync(&digest(uid, &consent, &fixtures::config()))
        .unwrap()
        .to_string()
}

fn annotations(payer: &str, consent: Option<&str>) -> BTreeMap<String, String> {
    let payer = (ANNOTATION_PAYER.to_owned(), payer.to_owned());
    let consent = consent.map(|text| (ANNOTATION_PAYER_CONSENT.to_owned(), text.to_owned()));
    [payer].into_iter().chain(consent).collect()
}

fn terms(signature: &str) -> String {
    format!(r#"{{"dailyCap":"100","expires":"2027-01-01T00:00:00Z","signature":"{signature}"}}"#)
}

#[allow(clippy::unwrap_in_result, reason = "the time is a literal")]
fn asked_at(
    annotations: &BTreeMap<String, String>,
    view: Option<&ChainView>,
    now: &str,
) -> Result<Consent, Refusal> {
    let namespace = NamespaceSays {
        name: "team",
        uid: "u-1",
        annotations,
        is_by_default: false,
    };
    consent(
        &namespace,
        &fixtures::config(),
        view,
        now.parse().unwrap(),
        |digest, signature| signature.recover_address_from_prehash(&digest).ok(),
    )
}

fn asked(annotations: &BTreeMap<String, String>) -> Result<Consent, Refusal> {
    asked_at(annotations, Some(&view()), "2026-06-01T00:00:00Z")
}

#[test]
fn the_owners_signature_over_these_terms_and_this_namespace_is_a_consent() {
    let consent = asked(&annotations("3", Some(&terms(&signed("u-1", &owner()))))).unwrap();
    assert_eq!((consent.payer, consent.daily_cap), (3, 100_000_000_000));
}

#[test]
fn whoever_does_not_pay_says_why_and_what_mends_it() {
    let stranger = PrivateKeySigner::from_bytes(&B256::repeat_byte(2)).unwrap();
    let good = terms(&signed("u-1", &owner()));
    let of_stranger = terms(&signed("u-1", &stranger));
    let of_namesake = terms(&signed("u-2", &owner()));
    let raised = good.replace("\"100\"", "\"1000\"");
    let no_amount = good.replace("\"100\"", "\"1e3\"");
    let cases = [
        (BTreeMap::new(), "names no payer"),
        (annotations("three", Some(&good)), "\"three\""),
        (annotations("0", Some(&good)), "\"0\""),
        (annotations("-1", Some(&good)), "\"-1\""),
        (annotations("4", Some(&good)), "lane 7 has no such account"),
        (annotations("3", None), "without that payer's consent"),
        (annotations("3", Some("yes")), "cannot be read"),
        (annotations("3", Some(&no_amount)), "not a token amount"),
        (annotations("3", Some(&terms("0x12"))), "65-byte"),
        (
            annotations("3", Some(&of_stranger)),
            "not by the account's owner",
        ),
        (
            annotations("3", Some(&of_namesake)),
            "not by the account's owner",
        ),
        (
            annotations("3", Some(&raised)),
            "not by the account's owner",
        ),
    ];
    for (annotations, words) in cases {
        let refusal = asked(&annotations).unwrap_err();
        assert_eq!(refusal.reason, ComputeJobReason::PayerNotConsenting);
        assert!(
            refusal.message.contains(words),
            "{} lacks {words}",
            refusal.message
        );
        assert!(
            refusal
                .message
                .contains("kubectl gridstake consent --namespace team"),
            "{}",
            refusal.message
        );
    }
}

#[test]
fn the_command_leaves_only_what_the_payer_decides_to_be_filled_in() {
    let settlement = "0x0000000000000000000000000000000000000051";
    let left = "--daily-cap TOKENS --expires TIME --key-file FILE";
    for (payer, named) in [(Some(3), "3"), (None, "PAYER")] {
        assert_eq!(
            command("team", payer, &fixtures::config()),
            format!(
                "kubectl gridstake consent --namespace team --chain anvil --payer {named} --lane 7 --chain-id 31337 --settlement {settlement} {left}"
            )
        );
    }
}

#[test]
fn a_consent_for_one_lane_is_none_for_another() {
    let annotations = annotations("3", Some(&terms(&signed("u-1", &owner()))));
    assert!(asked(&annotations).is_ok());
    let here = fixtures::config();
    let other_contract = alloy::primitives::Address::repeat_byte(9);
    for (what, config) in [
        (
            "another chain",
            ChainConfig {
                chain_id: here.chain_id + 1,
                ..here.clone()
            },
        ),
        (
            "another lane of the same contract",
            ChainConfig {
                lane: here.lane + 1,
                ..here.clone()
            },
        ),
        (
            "another contract on the same chain",
            ChainConfig {
                settlement: crate::chain::config::ContractConfig {
                    address: other_contract,
                    ..here.settlement
                },
                ..here.clone()
            },
        ),
    ] {
        let namespace = NamespaceSays {
            name: "team",
            uid: "u-1",
            annotations: &annotations,
            is_by_default: false,
        };
        let now = "2026-06-01T00:00:00Z".parse().unwrap();
        let refusal = consent(
            &namespace,
            &config,
            Some(&view()),
            now,
            |digest, signature| signature.recover_address_from_prehash(&digest).ok(),
        );
        let refusal = refusal.unwrap_err();
        assert_eq!(
            refusal.reason,
            ComputeJobReason::PayerNotConsenting,
            "{what}"
        );
        assert!(
            refusal.message.contains("not by the account's owner"),
            "{what}: {}",
            refusal.message
        );
    }
}

#[test]
fn a_namespace_that_names_none_of_several_chains_is_told_which_is_meant() {
    let nothing = BTreeMap::new();
    let message = |is_by_default| {
        let namespace = NamespaceSays {
            name: "team",
            uid: "u-1",
            annotations: &nothing,
            is_by_default,
        };
        let now = "2026-06-01T00:00:00Z".parse().unwrap();
        let refused = consent(
            &namespace,
            &fixtures::config(),
            Some(&view()),
            now,
            |_, _| None,
        );
        refused.unwrap_err().message
    };
    let words =
        "(its annotation gridstake.dev/chain is not there, so the first chain, anvil, is meant)";
    assert!(message(true).contains(words), "{}", message(true));
    assert!(!message(false).contains(words));
}

#[test]
fn a_consent_ends() {
    let annotations = annotations("3", Some(&terms(&signed("u-1", &owner()))));
    assert!(asked_at(&annotations, Some(&view()), "2027-01-01T00:00:00Z").is_ok());
    let refusal = asked_at(&annotations, Some(&view()), "2027-01-01T00:00:01Z").unwrap_err();
    assert!(
        refusal.message.contains("ended at 2027-01-01T00:00:00Z"),
        "{}",
        refusal.message
    );
}

#[test]
fn a_payer_that_was_not_read_yet_is_not_called_unknown() {
    let annotations = annotations("5", Some(&terms(&signed("u-1", &owner()))));
    for view in [Some(view()), None] {
        let refusal = asked_at(&annotations, view.as_ref(), "2026-06-01T00:00:00Z").unwrap_err();
        assert_eq!(refusal.reason, ComputeJobReason::ChainUnavailable);
    }
}
