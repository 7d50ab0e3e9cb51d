//! `deposit` and `thaw`, and what `claim` takes out of a payer's account.

use alloy::primitives::{Address, U256};
use gridstake_contracts::{GridToken, Settlement};

use super::{
    Desk, MoneyError,
    args::{DepositArgs, ThawArgs},
    plan::{Contract, Plan, Step},
    refusal::time,
    token::Token,
};
use crate::{Told, error::PluginError};

/// Gas of calls, by contracts/gas-snapshot/Settlement.json.
const DEPOSIT_GAS: u64 = 63_100;
const THAW_GAS: u64 = 50_072;
const WITHDRAW_GAS: u64 = 61_026;

/// A payer's account as a block shows it; amounts in nano-tokens, times in Unix seconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Escrow {
    /// The lane.
    lane: u32,
    /// The account's number on it.
    payer: u32,
    /// Who owns it.
    owner: Address,
    /// What it holds.
    balance: u64,
    /// What was asked back, and when that is due.
    thaw: Option<(u64, u64)>,
    /// From a request to its payment, in seconds.
    thaw_time: u64,
    /// Who sends.
    account: Address,
    /// What that account has of the token, in its smallest unit.
    has: U256,
    /// What Settlement may take of it, in the token's smallest unit.
    allowed: U256,
    /// The token.
    token: Token,
    /// The contract Settlement.
    settlement: Address,
    /// The time of the block.
    now: u64,
}

impl Escrow {
    fn words(&self) -> Vec<String> {
        let amount = |nano: u64| self.token.amount(nano.into());
        let mut lines = vec![format!(
            "payer {} of lane {} holds {}",
            self.payer,
            self.lane,
            amount(self.balance)
        )];
        lines.extend(self.thaw.map(|(asked, due)| {
            format!(
                "{} of it were asked back and can be taken out from {}",
                amount(asked),
                time(due)
            )
        }));
        lines
    }

    /// `amount` is paid in.
    fn deposit(&self, amount: u64) -> Result<Plan, String> {
        let nano = u128::from(amount);
        self.token.exact("--amount", nano)?;
        if self.has < self.token.units(nano) {
            return Err(format!(
                "--amount: the account {} has {}, not {}: send it what is missing (the token is {}), or write less",
                self.account,
                self.token.amount(self.token.nano(self.has)),
                self.token.amount(nano),
                self.token.address
            ));
        }
        let call = Settlement::depositCall {
            lane: self.lane,
            payer: self.payer,
            amount,
        };
        let what = format!(
            "deposit {} for payer {} of lane {}",
            self.token.amount(nano),
            self.payer,
            self.lane
        );
        let mut now = self.words();
        now.push(format!(
            "the account has {}",
            self.token.amount(self.token.nano(self.has))
        ));
        let mut then = vec![
            format!(
                "payer {} holds {}: jobs of namespaces for which it consents are paid from it",
                self.payer,
                self.token.amount(u128::from(self.balance).saturating_add(nano))
            ),
            "the lane's operator can spend it on jobs; what is left comes back seven days after `thaw`"
                .to_owned(),
        ];
        if self.owner != self.account {
            then.push(format!(
                "it belongs to the payer's owner, {}, and not to who sends it",
                self.owner
            ));
        }
        let plan = Plan {
            steps: vec![Step::new(what, Contract::Settlement, &call, DEPOSIT_GAS)],
            now,
            then,
        };
        let spender = (Contract::Settlement, self.settlement);
        Ok(plan.approving(&self.token, spender, self.allowed, nano))
    }

    /// `amount` is asked back, all of it without one; 0 takes a request back.
    fn thaw(&self, amount: Option<u64>) -> Result<Plan, String> {
        self.owned()?;
        let amount = amount.unwrap_or(self.balance);
        let (what, then) = if amount == 0 {
            if self.thaw.is_none() {
                return Err(format!(
                    "--payer: nothing of payer {}'s deposit is being asked back",
                    self.payer
                ));
            }
            (
                format!("take payer {}'s request back", self.payer),
                "the deposit stays".to_owned(),
            )
        } else {
            if amount > self.balance {
                return Err(format!(
                    "--amount: payer {} holds {}: write at most that, or --all",
                    self.payer,
                    self.token.amount(self.balance.into())
                ));
            }
            self.token.exact("--amount", amount.into())?;
            let due = time(self.now.saturating_add(self.thaw_time));
            (
                format!(
                    "ask {} of payer {}'s deposit back",
                    self.token.amount(amount.into()),
                    self.payer
                ),
                format!(
                    "what is left of it then can be taken out by `claim --payer {}` from {due}; new jobs do not count on it",
                    self.payer
                ),
            )
        };
        let call = Settlement::thawCall {
            lane: self.lane,
            payer: self.payer,
            amount,
        };
        let replaced = self.thaw.filter(|_| amount != 0).map(|(before, _)| {
            format!(
                "it replaces the request for {}, whose time begins anew",
                self.token.amount(before.into())
            )
        });
        Ok(Plan {
            steps: vec![Step::new(what, Contract::Settlement, &call, THAW_GAS)],
            now: self.words(),
            then: std::iter::once(then).chain(replaced).collect(),
        })
    }

    /// What was asked back is taken out.
    pub(super) fn withdraw(&self) -> Result<Plan, String> {
        self.owned()?;
        let (asked, due) = self.thaw.ok_or_else(|| {
            format!(
                "--payer: nothing of payer {}'s deposit was asked back: `kubectl gridstake thaw --payer {}` does, seven days before",
                self.payer, self.payer
            )
        })?;
        if due > self.now {
            return Err(format!(
                "--payer: {} can be taken out from {}: try again then",
                self.token.amount(asked.into()),
                time(due)
            ));
        }
        let call = Settlement::withdrawCall {
            lane: self.lane,
            payer: self.payer,
        };
        let what = format!(
            "take {} of payer {}'s deposit out, to {}",
            self.token.amount(asked.min(self.balance).into()),
            self.payer,
            self.account
        );
        Ok(Plan {
            steps: vec![Step::new(what, Contract::Settlement, &call, WITHDRAW_GAS)],
            now: self.words(),
            then: Vec::new(),
        })
    }

    fn owned(&self) -> Result<(), String> {
        if self.account == self.owner {
            return Ok(());
        }
        Err(format!(
            "--key-file: it is the key of {}, and payer {} of lane {} is owned by {}: name that one's key",
            self.account, self.payer, self.lane, self.owner
        ))
    }
}

/// What the chain shows of a payer and of the account.
pub(super) async fn look(desk: &Desk, lane: u32, payer: u32) -> Result<Escrow, MoneyError> {
    let (chain, account) = (&desk.chain, desk.account);
    let settlement = Contract::Settlement;
    let owner = chain
        .read(
            "look for the payer",
            settlement,
            Settlement::payerOwnerCall { lane, payer },
        )
        .await?;
    if owner.is_zero() {
        return Err(MoneyError::Unfit(format!(
            "--payer: lane {lane} has no payer {payer}: `kubectl gridstake register payer` makes one and prints its number"
        )));
    }
    let (balance, thaw, thaw_time, has, allowed) = tokio::try_join!(
        chain.read(
            "read the payer's balance",
            settlement,
            Settlement::balanceOfCall { lane, payer }
        ),
        chain.read(
            "read what was asked back",
            settlement,
            Settlement::thawOfCall { lane, payer }
        ),
        chain.read(
            "read the time of a thaw",
            settlement,
            Settlement::THAW_TIMECall {}
        ),
        chain.read(
            "read the account's balance",
            Contract::Token,
            GridToken::balanceOfCall { account }
        ),
        chain.read(
            "read the approval",
            Contract::Token,
            GridToken::allowanceCall {
                owner: account,
                spender: chain.settlement
            }
        ),
    )?;
    Ok(Escrow {
        lane,
        payer,
        owner,
        balance,
        thaw: (thaw.amount > 0).then_some((thaw.amount, thaw.due)),
        thaw_time,
        account,
        has,
        allowed,
        token: chain.token.clone(),
        settlement: chain.settlement,
        now: chain.block.time,
    })
}

/// `deposit`.
pub async fn deposit(args: &DepositArgs) -> Result<Told, PluginError> {
    let desk = Desk::open(&args.send).await?;
    let escrow = look(&desk, desk.lane(args.lane)?, args.payer).await?;
    let plan = escrow.deposit(args.amount).map_err(MoneyError::Unfit)?;
    desk.carry_out(plan, &args.send).await
}

/// `thaw`.
pub async fn thaw(args: &ThawArgs) -> Result<Told, PluginError> {
    let desk = Desk::open(&args.send).await?;
    let escrow = look(&desk, desk.lane(args.lane)?, args.payer).await?;
    let amount = if args.keep { Some(0) } else { args.amount };
    let plan = escrow.thaw(amount).map_err(MoneyError::Unfit)?;
    desk.carry_out(plan, &args.send).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::money::token::tests::token;

    const OWNER: Address = Address::repeat_byte(1);
    const NOW: u64 = 1_800_000_000;

    fn escrow() -> Escrow {
        let token = token(18);
        Escrow {
            lane: 7,
            payer: 3,
            owner: OWNER,
            balance: 10_000_000_000,
            thaw: None,
            thaw_time: 604_800,
            account: OWNER,
            has: token.units(5_000_000_000),
            allowed: U256::ZERO,
            token,
            settlement: Address::repeat_byte(0x51),
            now: NOW,
        }
    }

    #[test]
    fn a_deposit_is_approved_exactly_and_says_whose_it_is() {
        let plan = escrow().deposit(5_000_000_000).unwrap();
        assert_eq!(plan.steps.len(), 2);
        assert_eq!(plan.steps[1].what, "deposit 5 GRID for payer 3 of lane 7");
        assert!(plan.then[0].contains("holds 15 GRID"), "{:?}", plan.then);
        let stranger = Escrow {
            account: Address::repeat_byte(2),
            ..escrow()
        };
        let then = stranger.deposit(5_000_000_000).unwrap().then;
        assert!(then[2].contains("belongs to the payer's owner"), "{then:?}");
    }

    #[test]
    fn more_than_the_account_has_is_refused_before_anything_is_approved() {
        let words = escrow().deposit(5_000_000_001).unwrap_err();
        assert!(
            words.starts_with("--amount: ") && words.contains("has 5 GRID"),
            "{words}"
        );
    }

    #[test]
    fn what_is_asked_back_is_due_seven_days_later() {
        let plan = escrow().thaw(None).unwrap();
        assert_eq!(plan.steps[0].what, "ask 10 GRID of payer 3's deposit back");
        assert!(
            plan.then[0].contains("2027-01-22T08:00:00Z"),
            "{:?}",
            plan.then
        );
        let again = Escrow {
            thaw: Some((1_000_000_000, NOW + 5)),
            ..escrow()
        };
        let then = again.thaw(Some(2_000_000_000)).unwrap().then;
        assert!(
            then[1].contains("replaces the request for 1 GRID"),
            "{then:?}"
        );
        let kept = again.thaw(Some(0)).unwrap();
        assert_eq!(kept.steps[0].what, "take payer 3's request back");
    }

    #[test]
    fn what_cannot_be_is_refused_with_what_can() {
        let owned = |escrow: &Escrow| escrow.thaw(None).unwrap_err();
        let stranger = Escrow {
            account: Address::repeat_byte(2),
            ..escrow()
        };
        assert!(owned(&stranger).contains("name that one's key"));
        assert!(
            escrow()
                .thaw(Some(11_000_000_000))
                .unwrap_err()
                .contains("holds 10 GRID")
        );
        assert!(escrow().thaw(Some(0)).unwrap_err().contains("nothing"));
        assert!(escrow().withdraw().unwrap_err().contains("thaw --payer 3"));
        let early = Escrow {
            thaw: Some((1, NOW + 1)),
            ..escrow()
        };
        assert!(
            early
                .withdraw()
                .unwrap_err()
                .contains("2027-01-15T08:00:01Z")
        );
    }

    #[test]
    fn no_more_is_taken_out_than_is_left() {
        let due = Escrow {
            thaw: Some((99_000_000_000, NOW)),
            ..escrow()
        };
        let plan = due.withdraw().unwrap();
        assert!(
            plan.steps[0]
                .what
                .starts_with("take 10 GRID of payer 3's deposit out")
        );
    }
}
