//! A payer's consent: the annotations of a Namespace by which its jobs are paid for.

use gridstake_crds::{
    TokenAmount,
    names::{ANNOTATION_CHAIN, ANNOTATION_PAYER, ANNOTATION_PAYER_CONSENT},
};
use gridstake_ledger::typed::{PayerConsent, settlement_domain};
use k8s_openapi::{api::core::v1::Namespace, jiff::Timestamp};
use kube::Api;
use serde_json::{Value, json};

use crate::{
    Told,
    cli::ConsentArgs,
    cluster::{self, Named},
    end::EndTime,
    error::PluginError,
    key::{Key, KeyError},
};

/// Consents, and tells what was done or what is to be done.
pub async fn run(args: &ConsentArgs, now: Timestamp) -> Result<Told, PluginError> {
    let expires = args.expires.seen_from(now, "--expires")?;
    let key = Key::read(&args.key_file)?;
    let named = Named {
        flag: "--namespace",
        kind: "namespace",
        plural: "namespaces",
        name: &args.namespace,
    };
    let namespaces: Api<Namespace> = Api::all(cluster::client().await?);
    let namespace = cluster::read(&namespaces, named).await?;
    let uid = namespace
        .metadata
        .uid
        .ok_or_else(|| PluginError::Unfit(format!("namespace {} has no uid", args.namespace)))?;
    let consent = signed(args, &uid, expires, &key)?;
    if args.dry_run {
        return Ok(Told {
            result: command(args, &consent),
            note: Some(format!(
                "nothing is written; once this command is run, {}",
                words(args, expires, &key)
            )),
        });
    }
    let mut annotations = json!({
        (ANNOTATION_PAYER): args.payer.to_string(),
        (ANNOTATION_PAYER_CONSENT): consent,
    });
    if let Some(chain) = &args.chain {
        annotations[ANNOTATION_CHAIN] = json!(chain);
    }
    let patch = json!({"metadata": {"annotations": annotations}});
    cluster::merge(&namespaces, named, &patch).await?;
    Ok(Told {
        result: words(args, expires, &key),
        note: None,
    })
}

/// The text of the annotation [`ANNOTATION_PAYER_CONSENT`] for the namespace of this uid.
fn signed(args: &ConsentArgs, uid: &str, expires: EndTime, key: &Key) -> Result<String, KeyError> {
    let statement = PayerConsent {
        lane: args.lane,
        payer: args.payer,
        namespaceUid: uid.to_owned(),
        dailyCap: args.daily_cap,
        expires: expires.seconds(),
    };
    let signature = key.sign(
        &statement,
        &settlement_domain(args.chain_id, args.settlement),
    )?;
    let written: Value = json!({
        "dailyCap": daily_cap(args),
        "expires": expires.to_string(),
        "signature": signature,
    });
    Ok(written.to_string())
}

fn daily_cap(args: &ConsentArgs) -> TokenAmount {
    TokenAmount::from_nano(args.daily_cap.into())
}

/// The command that writes the annotations. Nothing in a consent ends the quotes.
fn command(args: &ConsentArgs, consent: &str) -> String {
    let chain = args
        .chain
        .as_ref()
        .map(|chain| format!("{ANNOTATION_CHAIN}={chain} "))
        .unwrap_or_default();
    format!(
        "kubectl annotate namespace {} --overwrite {chain}{ANNOTATION_PAYER}={} '{ANNOTATION_PAYER_CONSENT}={consent}'",
        args.namespace, args.payer
    )
}

/// What was consented to.
fn words(args: &ConsentArgs, expires: EndTime, key: &Key) -> String {
    format!(
        "payer {} pays for the jobs of namespace {} on lane {}: at most {} tokens a day (UTC), until {expires}. Signed by {}, who must be the owner of that account",
        args.payer,
        args.namespace,
        args.lane,
        daily_cap(args),
        key.address()
    )
}

#[cfg(test)]
mod tests {
    use alloy::primitives::Address;
    use gridstake_ledger::{signature, typed::signer_of};

    use super::*;
    use crate::key::tests::key;

    fn args() -> ConsentArgs {
        ConsentArgs {
            namespace: "team".to_owned(),
            chain: None,
            payer: 3,
            daily_cap: 100_500_000_000,
            expires: "2027-01-01T00:00:00Z".parse().unwrap(),
            key_file: "key".into(),
            lane: 7,
            chain_id: 31337,
            settlement: Address::repeat_byte(0x51),
            dry_run: true,
        }
    }

    fn expires() -> EndTime {
        let now = "2026-06-01T12:00:00Z".parse().unwrap();
        args().expires.seen_from(now, "--expires").unwrap()
    }

    fn written() -> Value {
        serde_json::from_str(&signed(&args(), "u-1", expires(), &key(1)).unwrap()).unwrap()
    }

    /// Who consented to what the annotation says, for the namespace of this uid on this lane of this contract.
    fn signer(uid: &str, lane: u32, settlement: Address) -> Address {
        let written = written();
        let text = |field: &str| written[field].as_str().unwrap().to_owned();
        let expires: Timestamp = text("expires").parse().unwrap();
        let cap: TokenAmount = text("dailyCap").parse().unwrap();
        let statement = PayerConsent {
            lane,
            payer: 3,
            namespaceUid: uid.to_owned(),
            dailyCap: cap.nano().try_into().unwrap(),
            expires: expires.as_second().try_into().unwrap(),
        };
        let signature = signature::parse(&text("signature")).unwrap();
        signer_of(
            &statement,
            &settlement_domain(31337, settlement),
            &signature,
        )
        .unwrap()
    }

    #[test]
    fn what_is_written_is_signed_by_the_key_for_this_namespace_lane_and_contract_only() {
        let (owner, here) = (key(1).address(), args().settlement);
        assert_eq!(signer("u-1", 7, here), owner);
        assert_ne!(signer("u-2", 7, here), owner);
        assert_ne!(signer("u-1", 8, here), owner);
        assert_ne!(signer("u-1", 7, Address::repeat_byte(0x52)), owner);
    }

    #[test]
    fn an_annotation_has_the_fields_that_the_operator_reads_and_no_other() {
        let written = written();
        assert_eq!(written["dailyCap"], "100.5");
        assert_eq!(written["expires"], "2027-01-01T00:00:00Z");
        assert_eq!(written.as_object().unwrap().len(), 3);
    }

    #[test]
    fn a_dry_run_prints_a_command_that_a_shell_takes_as_it_is() {
        let consent = signed(&args(), "u-1", expires(), &key(1)).unwrap();
        assert!(!consent.contains('\''), "{consent}");
        assert_eq!(
            command(&args(), &consent),
            format!(
                "kubectl annotate namespace team --overwrite gridstake.dev/payer=3 'gridstake.dev/payer-consent={consent}'"
            )
        );
        let named = ConsentArgs {
            chain: Some("base".to_owned()),
            ..args()
        };
        assert_eq!(
            command(&named, &consent),
            format!(
                "kubectl annotate namespace team --overwrite gridstake.dev/chain=base gridstake.dev/payer=3 'gridstake.dev/payer-consent={consent}'"
            )
        );
    }

    #[test]
    fn whoever_consents_is_told_to_what_and_as_whom() {
        let words = words(&args(), expires(), &key(1));
        let owner = key(1).address().to_string();
        for expected in [
            "payer 3",
            "namespace team",
            "lane 7",
            "100.5",
            "2027-01-01",
            &owner,
        ] {
            assert!(words.contains(expected), "{words} lacks {expected}");
        }
    }
}
