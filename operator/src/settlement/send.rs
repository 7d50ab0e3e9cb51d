//! Which transaction to send next, if any. Pure.
//!
//! Everything that is sent has been stored. What is not mined is sent again on every look; after some blocks it is
//! replaced by one of the same nonce that pays more, up to a cap; at the cap it is sent on as it is and never given up.
//! Which transaction is mined does not matter: the contract takes the content once.

use crate::chain::config::FeeConfig;

use super::transaction::Terms;

/// The most attempts that are stored for one call.
pub const MOST_ATTEMPTS: usize = 64;

/// An attempt that is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Its terms.
    pub terms: Terms,
    /// Until when the authorization in it is in force.
    pub valid_until: Option<u64>,
    /// For how many blocks it has been waiting.
    pub waited: u64,
    /// Whether an endpoint said that it pays too little to replace what it has.
    pub underpriced: bool,
}

/// What is known when the next step is to be found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SendFacts {
    /// What was stored for this call, oldest first.
    pub stored: Vec<Stored>,
    /// The lowest nonce that is neither mined nor held by another call.
    pub free_nonce: u64,
    /// The time of the newest block.
    pub now: u64,
    /// Until when the newest authorization of the call is in force.
    pub valid_until: Option<u64>,
    /// How much gas the call takes now.
    pub gas: u64,
    /// The highest gas limit at which an attempt ran out of gas; 0 if none did.
    pub ran_out_at: u64,
    /// The base fee of the newest block, in wei.
    pub base_fee: u128,
    /// The suggested tip, in wei.
    pub tip: u128,
    /// What the gas account has, in wei.
    pub balance: u128,
}

/// What keeps a better transaction from being sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// Gas costs more than may be paid.
    FeeCap,
    /// The gas account cannot pay.
    Balance,
    /// So many transactions have been stored that none is added.
    Attempts,
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Send the stored attempt at this index again.
    Broadcast {
        /// Its index in [`SendFacts::stored`].
        index: usize,
        /// Why no better one replaces it, if one should.
        obstacle: Option<Obstacle>,
    },
    /// Sign and store a transaction on these terms, then send it.
    Sign(Terms),
    /// There is nothing to send.
    Wait(Obstacle),
}

/// The index of the stored attempt that can be mined next: of those with the free nonce the one that pays most.
#[must_use]
pub fn live(stored: &[Stored], free_nonce: u64) -> Option<usize> {
    stored
        .iter()
        .enumerate()
        .filter(|(_, attempt)| attempt.terms.nonce == free_nonce)
        .max_by_key(|(index, attempt)| (attempt.terms.max_fee, *index))
        .map(|(index, _)| index)
}

/// Whether the live attempt is to be replaced.
#[must_use]
pub fn is_due(attempt: &Stored, valid_until: Option<u64>, now: u64, fees: &FeeConfig) -> bool {
    let expired =
        attempt.valid_until.is_some_and(|until| until < now) && attempt.valid_until < valid_until;
    expired || attempt.underpriced || attempt.waited >= fees.replace_after_blocks
}

/// The next step.
#[must_use]
pub fn next(facts: &SendFacts, fees: &FeeConfig) -> Step {
    let live = live(&facts.stored, facts.free_nonce).map(|index| (index, facts.stored[index]));
    if let Some((index, attempt)) = &live
        && !is_due(attempt, facts.valid_until, facts.now, fees)
    {
        return Step::Broadcast {
            index: *index,
            obstacle: None,
        };
    }
    let stay = |obstacle| match &live {
        Some((index, _)) => Step::Broadcast {
            index: *index,
            obstacle: Some(obstacle),
        },
        None => Step::Wait(obstacle),
    };
    if facts.stored.len() >= MOST_ATTEMPTS {
        return stay(Obstacle::Attempts);
    }
    match terms(facts, live.map(|(_, attempt)| attempt.terms), fees) {
        Ok(terms) => Step::Sign(terms),
        Err(obstacle) => stay(obstacle),
    }
}

/// The terms of a new transaction, which replaces `old` if there is one.
fn terms(facts: &SendFacts, old: Option<Terms>, fees: &FeeConfig) -> Result<Terms, Obstacle> {
    let tip = facts.tip.max(fees.min_priority_fee_per_gas.get());
    let asked = facts.base_fee.saturating_add(tip);
    let cap = fees
        .max_fee_per_gas
        .get()
        .min(asked.saturating_mul(fees.max_multiple.into()));
    // Twice the base fee lasts for six full blocks.
    let wanted = facts
        .base_fee
        .saturating_mul(2)
        .saturating_add(tip)
        .min(cap);
    let (max_fee, tip) = match old {
        Some(old) => (raised(old.max_fee).max(wanted), raised(old.tip).max(tip)),
        None => (wanted, tip),
    };
    if max_fee > cap || asked > cap {
        return Err(Obstacle::FeeCap);
    }
    let gas_limit = facts
        .gas
        .saturating_add(facts.gas / 4)
        .max(facts.ran_out_at.saturating_add(facts.ran_out_at / 2))
        .min(fees.max_gas);
    if u128::from(gas_limit).saturating_mul(max_fee) > facts.balance {
        return Err(Obstacle::Balance);
    }
    Ok(Terms {
        nonce: facts.free_nonce,
        gas_limit,
        max_fee,
        tip: tip.min(max_fee),
    })
}

/// An eighth more, as pools ask for a tenth at least.
fn raised(fee: u128) -> u128 {
    fee.saturating_add(fee.div_ceil(8).max(1))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::chain::wei::Wei;

    const GWEI: u128 = 1_000_000_000;

    fn fees() -> FeeConfig {
        FeeConfig::default()
    }

    fn facts() -> SendFacts {
        SendFacts {
            stored: vec![],
            free_nonce: 5,
            now: 1000,
            valid_until: Some(5000),
            gas: 400_000,
            ran_out_at: 0,
            base_fee: 10 * GWEI,
            tip: GWEI,
            balance: u128::MAX,
        }
    }

    fn stored(nonce: u64, max_fee: u128, waited: u64) -> Stored {
        Stored {
            terms: Terms {
                nonce,
                gas_limit: 500_000,
                max_fee,
                tip: GWEI,
            },
            valid_until: Some(5000),
            waited,
            underpriced: false,
        }
    }

    fn signed(step: Step) -> Terms {
        match step {
            Step::Sign(terms) => terms,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_first_transaction_pays_twice_the_base_fee_and_a_quarter_more_gas() {
        let terms = signed(next(&facts(), &fees()));
        assert_eq!(
            terms,
            Terms {
                nonce: 5,
                gas_limit: 500_000,
                max_fee: 21 * GWEI,
                tip: GWEI
            }
        );
    }

    #[test]
    fn what_waits_is_sent_again_and_after_some_blocks_replaced_at_the_same_nonce() {
        let mut facts = facts();
        facts.stored = vec![stored(5, 21 * GWEI, 2)];
        assert_eq!(
            next(&facts, &fees()),
            Step::Broadcast {
                index: 0,
                obstacle: None
            }
        );
        facts.stored = vec![stored(5, 21 * GWEI, 3)];
        let terms = signed(next(&facts, &fees()));
        assert_eq!((terms.nonce, terms.max_fee), (5, 21 * GWEI * 9 / 8));
        assert_eq!(terms.tip, GWEI * 9 / 8);
    }

    #[test]
    fn of_two_with_one_nonce_the_dearer_is_sent() {
        let mut facts = facts();
        facts.stored = vec![
            stored(4, 99 * GWEI, 0),
            stored(5, 24 * GWEI, 0),
            stored(5, 21 * GWEI, 9),
        ];
        assert_eq!(
            next(&facts, &fees()),
            Step::Broadcast {
                index: 1,
                obstacle: None
            }
        );
    }

    #[test]
    fn an_underpriced_one_is_replaced_at_once() {
        let mut facts = facts();
        facts.stored = vec![Stored {
            underpriced: true,
            ..stored(5, 21 * GWEI, 0)
        }];
        assert!(matches!(next(&facts, &fees()), Step::Sign(_)));
    }

    #[test]
    fn a_nonce_that_is_gone_or_too_high_is_not_waited_for() {
        for nonce in [4, 6] {
            let mut facts = facts();
            facts.stored = vec![stored(nonce, 21 * GWEI, 0)];
            assert_eq!(signed(next(&facts, &fees())).nonce, 5);
        }
    }

    #[test]
    fn an_expired_authorization_is_replaced_once_there_is_a_new_one() {
        let mut facts = facts();
        facts.now = 5001;
        facts.stored = vec![stored(5, 21 * GWEI, 0)];
        assert!(matches!(next(&facts, &fees()), Step::Broadcast { .. }));
        facts.valid_until = Some(9000);
        assert!(matches!(next(&facts, &fees()), Step::Sign(_)));
    }

    #[test]
    fn at_the_cap_the_last_one_is_sent_on() {
        let cap = Obstacle::FeeCap;
        // Five times what the chain asks is 55 gwei.
        let mut facts = facts();
        facts.stored = vec![stored(5, 50 * GWEI, 3)];
        assert_eq!(
            next(&facts, &fees()),
            Step::Broadcast {
                index: 0,
                obstacle: Some(cap)
            }
        );
        facts.stored.clear();
        facts.base_fee = 500 * GWEI;
        assert_eq!(next(&facts, &fees()), Step::Wait(cap));
    }

    #[test]
    fn an_account_that_cannot_pay_signs_nothing() {
        let mut facts = facts();
        facts.balance = 500_000 * 21 * GWEI - 1;
        assert_eq!(next(&facts, &fees()), Step::Wait(Obstacle::Balance));
        facts.balance += 1;
        assert!(matches!(next(&facts, &fees()), Step::Sign(_)));
    }

    #[test]
    fn a_transaction_that_ran_out_of_gas_gets_half_as_much_again() {
        let mut facts = facts();
        facts.ran_out_at = 500_000;
        assert_eq!(signed(next(&facts, &fees())).gas_limit, 750_000);
        facts.ran_out_at = 16_000_000;
        assert_eq!(signed(next(&facts, &fees())).gas_limit, 16_777_216);
    }

    #[test]
    fn the_list_of_attempts_never_overflows() {
        let mut facts = facts();
        facts.stored = vec![stored(5, 21 * GWEI, 3); MOST_ATTEMPTS];
        assert!(matches!(
            next(&facts, &fees()),
            Step::Broadcast {
                obstacle: Some(Obstacle::Attempts),
                ..
            }
        ));
    }

    proptest! {
        #[test]
        fn what_is_signed_stays_below_every_cap(
            base in 0..1000 * GWEI, tip in 0..50 * GWEI, old in proptest::option::of(1..1000 * GWEI),
            gas in 21_000_u64..30_000_000, cap in 1..1000_u64,
        ) {
            let fees = FeeConfig { max_fee_per_gas: Wei::from_gwei(cap), ..fees() };
            let mut facts = SendFacts { base_fee: base, tip, gas, ..facts() };
            facts.stored.extend(old.map(|fee| stored(5, fee, 3)));
            if let Step::Sign(terms) = next(&facts, &fees) {
                prop_assert!(terms.max_fee <= fees.max_fee_per_gas.get());
                prop_assert!(terms.max_fee <= 5 * (base + tip.max(1)));
                prop_assert!(terms.max_fee >= base + tip);
                prop_assert!(terms.tip <= terms.max_fee && terms.gas_limit <= fees.max_gas);
                if let Some(old) = old {
                    // A pool takes a replacement that pays a tenth more.
                    prop_assert!(terms.max_fee * 10 >= old * 11 || old < 10);
                }
            }
        }
    }
}
