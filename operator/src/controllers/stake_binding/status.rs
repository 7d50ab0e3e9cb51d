//! The status of a StakeBinding.

use gridstake_crds::{
    StakeBinding, StakeBindingStatus, TokenAmount, condition,
    names::MANAGER_STAKE_BINDING,
    stake_binding::{BlockReference, Unbonding},
};
use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};

use super::{decide::Plan, standing::Figures};
use crate::{
    chain::{Block, view::ProviderView},
    status::StatusOwner,
};

/// How many withdrawals the status lists; the contract allows fewer.
const MOST_UNBONDING: usize = 64;

/// What this controller owns.
pub const OWNER: StatusOwner = StatusOwner {
    manager: MANAGER_STAKE_BINDING,
    fields: &[
        "observedGeneration",
        "nodes",
        "nodeCount",
        "bonded",
        "delegated",
        "unbonding",
        "frozen",
        "effectiveWeight",
        "observedBlock",
    ],
    conditions: &[
        "Resolved",
        "ContractMatch",
        "ChainSynced",
        "Bonded",
        "Ready",
    ],
};

/// The status that says what `plan` says.
///
/// `observedBlock` moves only along with something else: it is the block at which the present content was first seen.
/// A block that changes nothing makes no write.
#[must_use]
pub fn desired(binding: &StakeBinding, plan: &Plan, now: Timestamp) -> StakeBindingStatus {
    let present = binding.status.clone().unwrap_or_default();
    let generation = binding.metadata.generation;
    let mut desired = StakeBindingStatus {
        observed_generation: generation,
        nodes: plan.nodes.clone(),
        node_count: u32::try_from(plan.nodes.len()).ok(),
        effective_weight: Some(plan.effective_weight.to_string()),
        conditions: condition::conditions(&present.conditions, &plan.facts, generation, now),
        ..StakeBindingStatus::default()
    };
    match (&plan.figures, plan.figures.provider()) {
        (Figures::Observed(view, _), Some(provider)) => {
            set_figures(&mut desired, provider);
            desired.observed_block.clone_from(&present.observed_block);
            if desired != present {
                desired.observed_block = Some(reference(&view.head));
            }
        }
        (Figures::Unchanged, _) => {
            desired.bonded = present.bonded;
            desired.delegated = present.delegated;
            desired.unbonding = present.unbonding;
            desired.frozen = present.frozen;
            desired.observed_block = present.observed_block;
        }
        _ => {}
    }
    desired
}

fn set_figures(status: &mut StakeBindingStatus, provider: &ProviderView) {
    let tokens = |nano| Some(TokenAmount::from_nano(nano));
    status.bonded = tokens(provider.own);
    status.delegated = tokens(provider.delegated);
    status.frozen = tokens(provider.frozen);
    status.unbonding = provider
        .tickets
        .iter()
        .take(MOST_UNBONDING)
        .filter_map(|ticket| {
            let unlock = i64::try_from(ticket.unlock_at).ok()?;
            Some(Unbonding {
                amount: TokenAmount::from_nano(ticket.amount),
                available_at: Time(Timestamp::from_second(unlock).ok()?),
            })
        })
        .collect();
}

fn reference(block: &Block) -> BlockReference {
    BlockReference {
        number: block.number,
        hash: block.hash.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{
        super::{
            decide::decide,
            fixtures::{TOKEN, by_name, nodes, provider, resolve_on, view_with},
            standing::Sight,
        },
        *,
    };
    use crate::chain::{ChainView, Standing, view::TicketView};

    fn status_of(binding: &StakeBinding, standing: Standing) -> StakeBindingStatus {
        let resolutions = resolve_on(std::slice::from_ref(binding), &nodes());
        let plan = decide(
            binding,
            resolutions.binding("x").unwrap(),
            &resolutions,
            &Sight::Configured(standing),
            &["anvil".to_owned()],
        );
        desired(binding, &plan, Timestamp::UNIX_EPOCH)
    }

    fn in_force(view: ChainView) -> Standing {
        Standing::InForce(Arc::new(view))
    }

    fn at_block(number: u64, provider: ProviderView) -> ChainView {
        let mut view = view_with(Some(provider));
        view.head.number = number;
        view
    }

    #[test]
    fn figures_are_shown_in_whole_tokens() {
        let mut rich = provider();
        rich.delegated = TOKEN / 2;
        rich.tickets = vec![TicketView {
            id: 1,
            amount: 3 * TOKEN,
            unlock_at: 604_800,
        }];
        let status = status_of(&by_name("x", &["n1", "n2"]), in_force(at_block(5, rich)));
        let shown = serde_json::to_value(&status).unwrap();
        assert_eq!(shown["bonded"], "30000");
        assert_eq!(shown["delegated"], "0.5");
        assert_eq!(shown["frozen"], "0");
        assert_eq!(shown["unbonding"][0]["amount"], "3");
        assert_eq!(shown["unbonding"][0]["availableAt"], "1970-01-08T00:00:00Z");
        assert_eq!(shown["effectiveWeight"], "30000");
        assert_eq!(shown["observedBlock"]["number"], 5);
        assert_eq!(shown["nodeCount"], 2);
    }

    #[test]
    fn a_block_that_changes_nothing_makes_no_write_and_one_that_does_is_named() {
        let mut binding = by_name("x", &["n1"]);
        let first = status_of(&binding, in_force(at_block(5, provider())));
        binding.status = Some(first.clone());
        let later = status_of(&binding, in_force(at_block(6, provider())));
        assert_eq!(later, first);
        let mut more = provider();
        more.own += 1;
        let changed = status_of(&binding, in_force(at_block(7, more)));
        assert_eq!(changed.observed_block.unwrap().number, 7);
    }

    #[test]
    fn what_was_last_observed_stays_while_the_chain_is_away_even_after_a_restart() {
        let mut binding = by_name("x", &["n1"]);
        let observed = status_of(&binding, in_force(at_block(5, provider())));
        binding.status = Some(observed.clone());
        let away = status_of(&binding, Standing::Unavailable(None));
        assert_eq!(
            (away.bonded, away.observed_block),
            (observed.bonded, observed.observed_block)
        );
        assert_eq!(away.effective_weight.as_deref(), Some("0"));
        let unknown = status_of(&binding, in_force(view_with(None)));
        assert_eq!((unknown.bonded, unknown.observed_block), (None, None));
    }
}
