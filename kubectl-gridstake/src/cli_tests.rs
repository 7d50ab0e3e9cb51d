//! Facts about the command line.

use clap::CommandFactory as _;

use super::*;

const CONSENT: &str = "kubectl-gridstake consent --namespace team --chain base --payer 3 --lane 7 --chain-id 31337 --settlement 0x0000000000000000000000000000000000000051 --daily-cap 100 --expires 30d --key-file key";
const CERTIFY: &str = "kubectl-gridstake certify --node n1 --provider 7 --chain-id 31337 --vault 0x0000000000000000000000000000000000000052 --key-file key";

#[allow(clippy::result_large_err, reason = "clap's own error")]
fn parsed(line: &str) -> Result<Command, clap::Error> {
    Cli::try_parse_from(line.split(' ')).map(|cli| cli.command)
}

#[test]
fn the_command_line_is_well_formed() {
    Cli::command().debug_assert();
}

#[test]
fn the_command_that_the_operator_names_is_understood() {
    let Command::Consent(args) = parsed(CONSENT).unwrap() else {
        panic!("another command");
    };
    assert_eq!(
        (
            args.namespace.as_str(),
            args.payer,
            args.lane,
            args.daily_cap
        ),
        ("team", 3, 7, 100_000_000_000)
    );
    assert_eq!(args.chain.as_deref(), Some("base"));
    assert!(!args.dry_run);
    let Command::Consent(args) = parsed(&without(CONSENT, "--chain")).unwrap() else {
        panic!("another command");
    };
    assert_eq!(args.chain, None);
}

#[test]
fn a_certificate_is_for_epoch_0_and_90_days_where_nothing_else_is_said() {
    let Command::Certify(args) = parsed(CERTIFY).unwrap() else {
        panic!("another command");
    };
    assert_eq!(args.epoch, 0);
    assert_eq!(args.not_after, "90d".parse().unwrap());
    assert_eq!(args.price, None);
}

#[test]
fn a_bad_value_is_answered_with_its_flag_and_what_would_be_right() {
    let checksummed = "0xd8dA6BF26964aF9D7eEd9e03E53415D37aA96045";
    let mistyped = checksummed.replace("0xd8d", "0xd8D");
    for (line, flag, value, right) in [
        (CONSENT, "--payer", "0", "such as 3"),
        (CONSENT, "--payer", "three", "such as 3"),
        (CONSENT, "--daily-cap", "0.0000000001", "at most 9 decimals"),
        (
            CONSENT,
            "--daily-cap",
            "99999999999",
            "at most 18446744073.709551615",
        ),
        (CONSENT, "--expires", "tomorrow", "2027-01-01T00:00:00Z"),
        (CONSENT, "--expires", "1.5h", "\"90d\""),
        (CONSENT, "--chain-id", "0", "such as 8453"),
        (CONSENT, "--chain", "Base;ls", "such as base-sepolia"),
        (CONSENT, "--settlement", "0x51", "40 hexadecimal digits"),
        (
            CONSENT,
            "--settlement",
            &checksummed[2..],
            "40 hexadecimal digits",
        ),
        (CONSENT, "--settlement", &mistyped, "checksum"),
        (CERTIFY, "--provider", "0", "such as 7"),
        (CERTIFY, "--not-after", "soon", "\"90d\""),
        (CERTIFY, "--price", "1e-3", "such as \"0.00072\""),
    ] {
        let without = without(line, flag);
        let words = parsed(&format!("{without} {flag} {value}"))
            .unwrap_err()
            .to_string();
        for expected in [flag, value, right] {
            assert!(words.contains(expected), "{words} lacks {expected}");
        }
    }
}

#[test]
fn an_address_is_taken_in_one_case_or_with_its_checksum() {
    let checksummed = "0xd8dA6BF26964aF9D7eEd9e03E53415D37aA96045";
    let lower = checksummed.to_lowercase();
    assert_eq!(address(checksummed), address(&lower));
    assert!(address(&lower).is_ok());
}

/// The line less a flag and its value.
fn without(line: &str, flag: &str) -> String {
    let mut words = line.split(' ');
    let mut left = Vec::new();
    while let Some(word) = words.next() {
        if word == flag {
            words.next();
        } else {
            left.push(word);
        }
    }
    left.join(" ")
}

#[test]
fn a_job_is_named_with_its_namespace_or_is_in_that_of_the_flag_or_of_the_context() {
    let name = |text: &str, flag: Option<&str>| {
        let named = text.parse::<JobOrName>().unwrap();
        named
            .in_namespace(flag, "default")
            .map(|job| format!("{}/{}", job.namespace, job.name))
            .map_err(|error| error.to_string())
    };
    assert_eq!(name("team/train", None), Ok("team/train".to_owned()));
    assert_eq!(
        name("team/train", Some("team")),
        Ok("team/train".to_owned())
    );
    assert_eq!(name("train", Some("team")), Ok("team/train".to_owned()));
    assert_eq!(name("train", None), Ok("default/train".to_owned()));
    let words = name("team/train", Some("other")).unwrap_err();
    assert!(words.contains("leave one of them out"), "{words}");
    for bad in ["", "/", "a/", "/b", "a/b/c"] {
        assert!(bad.parse::<JobOrName>().is_err(), "{bad}");
    }
}

#[test]
fn a_node_that_is_put_back_is_not_waited_for_and_a_wait_alone_has_a_timeout() {
    assert!(parsed("kubectl-gridstake drain n1 --undo --wait").is_err());
    assert!(parsed("kubectl-gridstake drain n1 --timeout 2h").is_err());
    let Command::Drain(args) = parsed("kubectl-gridstake drain n1 --wait --timeout 2h -y").unwrap()
    else {
        panic!("another command");
    };
    assert!(args.wait && args.yes && !args.undo && !args.dry_run);
}

#[test]
fn what_is_explained_is_a_job_a_node_or_an_incident() {
    for line in [
        "kubectl-gridstake explain job team/train -o json",
        "kubectl-gridstake explain job train -n team",
        "kubectl-gridstake explain node n1 --output yaml",
        "kubectl-gridstake explain incident incident-ab",
        "kubectl-gridstake top -o table",
    ] {
        assert!(parsed(line).is_ok(), "{line}");
    }
    assert!(parsed("kubectl-gridstake explain pod p").is_err());
}

const STAKE: &str = "kubectl-gridstake stake --provider 7 --amount 25000 --key-file key";
const DEPOSIT: &str = "kubectl-gridstake deposit --payer 3 --amount 10 --key-file key";

#[test]
fn a_bad_amount_or_account_is_answered_with_its_flag_and_what_would_be_right() {
    for (line, flag, value, right) in [
        (STAKE, "--amount", "0", "more than 0 tokens"),
        (STAKE, "--amount", "1e3", "at most 9 decimals"),
        (STAKE, "--provider", "0", "such as 7"),
        (DEPOSIT, "--payer", "0", "such as 3"),
        (
            DEPOSIT,
            "--amount",
            "99999999999",
            "at most 18446744073.709551615",
        ),
    ] {
        let without = without(line, flag);
        let words = parsed(&format!("{without} {flag} {value}"))
            .unwrap_err()
            .to_string();
        for expected in [flag, value, right] {
            assert!(words.contains(expected), "{words} lacks {expected}");
        }
    }
}

#[test]
fn what_is_asked_back_is_an_amount_all_of_it_what_is_due_or_a_ticket_that_is_put_back() {
    let unstake = "kubectl-gridstake unstake --provider 7 --key-file key";
    for which in ["--amount 1", "--all", "--withdraw", "--rebond 2"] {
        assert!(parsed(&format!("{unstake} {which}")).is_ok(), "{which}");
        let line = unstake.replace("unstake", "undelegate");
        assert!(parsed(&format!("{line} {which}")).is_ok(), "{which}");
    }
    assert!(parsed(unstake).is_err());
    assert!(parsed(&format!("{unstake} --all --withdraw")).is_err());
    let thaw = "kubectl-gridstake thaw --payer 3 --key-file key";
    assert!(parsed(&format!("{thaw} --keep")).is_ok());
    assert!(parsed(thaw).is_err());
}

#[test]
fn who_claims_says_whose_money_and_who_disputes_says_with_what() {
    let claim = "kubectl-gridstake claim --key-file key";
    assert!(parsed(&format!("{claim} --provider 7")).is_ok());
    assert!(parsed(&format!("{claim} --payer 3 --lane 7")).is_ok());
    for line in [
        claim.to_owned(),
        format!("{claim} --provider 7 --payer 3"),
        format!("{claim} --provider 7 --lane 7"),
    ] {
        assert!(parsed(&line).is_err(), "{line}");
    }
    let dispute = "kubectl-gridstake dispute incident-ab --key-file key";
    assert!(parsed(&format!("{dispute} --evidence letter.pdf")).is_ok());
    assert!(parsed(dispute).is_err());
}

#[test]
fn no_command_takes_a_key_itself() {
    for command in Cli::command().get_subcommands() {
        let flags = command.get_arguments().filter_map(|arg| arg.get_long());
        for flag in flags {
            assert!(flag == "key-file" || !flag.contains("key"), "{flag}");
        }
    }
}
