//! Lets providers be paid whose cooling is over. Anyone may do it; nothing depends on who does.

use std::collections::BTreeMap;

use alloy::sol_types::SolCall as _;
use gridstake_crds::transaction::TransactionAttempt;

use super::{
    outbox::{Errand, Progress, PursueError},
    run::Settler,
    transaction::Call,
};
use crate::{
    chain::{Account, ChainView, contracts::Settlement, view::ProviderView},
    error::chain as causes,
};

/// What was sent and has had no effect yet. It is lost with the process, which costs a little gas at most.
#[derive(Debug, Default)]
pub struct Activation {
    sent: BTreeMap<u32, Vec<TransactionAttempt>>,
}

/// Whether `provider` could be paid and is not.
fn is_due(provider: &ProviderView, now: u64) -> bool {
    !provider.active && provider.own > 0 && provider.payable_at <= now
}

/// The providers that are to be activated at `now` on the chain's clock.
fn due(view: &ChainView) -> impl Iterator<Item = u32> {
    view.providers.keys().copied().filter(|id| {
        matches!(view.provider(*id), Account::Known(provider) if is_due(provider, view.head.timestamp))
    })
}

impl Settler {
    /// Activates the providers that are due. A failure is repeated with the next block.
    pub(super) async fn activate(&mut self, view: &ChainView) {
        let due: Vec<u32> = due(view).collect();
        let over: Vec<u32> = self
            .activation
            .sent
            .keys()
            .copied()
            .filter(|id| !due.contains(id))
            .collect();
        for id in over {
            self.activation.sent.remove(&id);
            self.lane.outbox().done(&errand_name(id));
        }
        for id in due {
            if let Err(error) = self.activate_one(id, view).await {
                tracing::warn!(
                    provider = id,
                    error = causes(&error),
                    "a provider was not activated"
                );
                return;
            }
        }
    }

    async fn activate_one(
        &mut self,
        provider: u32,
        view: &ChainView,
    ) -> Result<(), PursueError<std::convert::Infallible>> {
        let config = self.lane.chain().config().clone();
        let call = Call {
            to: config.settlement.address,
            input: Settlement::activateProviderCall { provider }
                .abi_encode()
                .into(),
            valid_until: None,
        };
        let sent = self.activation.sent.entry(provider).or_default();
        let attempts = sent.clone();
        let call_of = |_: &TransactionAttempt| Some(call.clone());
        let name = errand_name(provider);
        let errand = Errand {
            name: &name,
            call: &call,
            attempts: &attempts,
            call_of: &call_of,
            at: view.head,
        };
        let progress = self
            .lane
            .outbox()
            .pursue(
                self.lane.client(),
                &config,
                &errand,
                (self.context.now)(),
                |attempt| {
                    sent.push(attempt);
                    std::future::ready(Ok(()))
                },
            )
            .await?;
        if let Progress::Sent { new: true, .. } = progress {
            tracing::info!(provider, "a provider's cooling is over: it is activated");
        }
        Ok(())
    }
}

fn errand_name(provider: u32) -> String {
    format!("activate-{provider}")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::chain::fixtures;

    #[test]
    fn only_a_staked_provider_whose_cooling_is_over_and_who_is_not_active_is_due() {
        let good = ProviderView {
            own: 1,
            payable_at: 1_000_000,
            ..ProviderView::default()
        };
        let providers = [
            (1, Some(good.clone())),
            (
                2,
                Some(ProviderView {
                    active: true,
                    ..good.clone()
                }),
            ),
            (
                3,
                Some(ProviderView {
                    payable_at: 1_000_001,
                    ..good.clone()
                }),
            ),
            (4, Some(ProviderView { own: 0, ..good })),
            (5, None),
        ];
        let mut view = fixtures::view();
        view.providers = Arc::new(providers.into());
        assert_eq!(due(&view).collect::<Vec<_>>(), [1]);
    }
}
