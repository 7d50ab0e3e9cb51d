//! What people and programs write is fed to its parsers, damaged.

use gridstake_fuzz::{Verdict, corpus, fuzz};

use crate::{Incident, SettlementBatch, StakeBinding, TokenAmount, UsageRecord};

#[test]
fn fuzz_token_amounts() {
    let good = [
        "0",
        "0.00072",
        "20000.000000001",
        "999999999999999999.999999999",
        "1.10",
    ]
    .map(|text| text.as_bytes().to_vec());
    fuzz("token-amount", corpus!("token-amount"), &good, |bytes| {
        let Some(amount) = std::str::from_utf8(bytes)
            .ok()
            .and_then(|text| text.parse::<TokenAmount>().ok())
        else {
            return Verdict::Refused;
        };
        assert_eq!(amount.to_string().parse(), Ok(amount));
        assert!(
            amount.nano() < 10_u128.pow(27),
            "{amount} is 10^18 tokens or more"
        );
        Verdict::Accepted
    });
}

/// The corpus is the objects that the tests of the definitions apply, as JSON.
#[test]
fn fuzz_objects_of_the_ledger() {
    let seeds: Vec<Vec<u8>> = [
        include_str!("../tests/manifests/valid/usagerecord-full.yaml"),
        include_str!("../tests/manifests/valid/settlementbatch-full.yaml"),
        include_str!("../tests/manifests/valid/incident-full.yaml"),
        include_str!("../tests/manifests/valid/stakebinding-full.yaml"),
    ]
    .map(|yaml| {
        serde_json::to_vec(&serde_saphyr::from_str::<serde_json::Value>(yaml).unwrap()).unwrap()
    })
    .into();
    fuzz("object", corpus!("object"), &seeds, |bytes| {
        let read = [
            serde_json::from_slice::<UsageRecord>(bytes).is_ok(),
            serde_json::from_slice::<SettlementBatch>(bytes).is_ok(),
            serde_json::from_slice::<Incident>(bytes).is_ok(),
            serde_json::from_slice::<StakeBinding>(bytes).is_ok(),
        ];
        if read.contains(&true) {
            Verdict::Accepted
        } else {
            Verdict::Refused
        }
    });
}
