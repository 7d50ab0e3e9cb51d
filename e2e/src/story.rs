//! Tells a story: the frame around the body of each test.

use std::panic::{AssertUnwindSafe, resume_unwind};

use anyhow::{Context as _, Result};
use futures::FutureExt as _;

use crate::{
    allocation, chain::Chain, diagnosis, market::Market, payer::Payer, provider::tokens,
    tenant::Tenant, world::World,
};

/// Tells a story to the cluster: waits for its turn and until all is well, gives it a namespace, and afterwards, also
/// when it failed, puts right what it disturbed and removes what it made. A story that failed says what the cluster
/// looked like. With `E2E_KEEP=1` the namespace of a failed story stays.
///
/// What it tells holds whether use is paid or not. Where a chain is configured, each node gets a staked provider and the
/// namespace a payer with more than enough money.
pub fn story(body: impl AsyncFnOnce(&World, &Tenant) -> Result<()>) -> Result<()> {
    told(
        async |world| {
            Ok(if Chain::is_configured(world).await? {
                Some(Market::open(world).await?)
            } else {
                None
            })
        },
        async |world, tenant, market: &Option<Market>| {
            if let Some(market) = market {
                Payer::of_tenant(&market.chain, tenant, tokens(1000)).await?;
            }
            body(world, tenant).await
        },
    )
}

/// As [`story`], about a world with a chain, in which each node has a staked provider of this story alone. Nobody pays for
/// the namespace yet.
pub fn paid_story(body: impl AsyncFnOnce(&World, &Tenant, &Market) -> Result<()>) -> Result<()> {
    told(Market::open, body)
}

fn told<S>(
    stage: impl AsyncFnOnce(&World) -> Result<S>,
    body: impl AsyncFnOnce(&World, &Tenant, &S) -> Result<()>,
) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("start the runtime")?;
    runtime.block_on(async {
        let mut world = World::connect().await?;
        let set = stage(&world).await.context("set the stage")?;
        world.hosts = world.until_whole().await?;
        let tenant = Tenant::settle(&world, &name_of_this_test()).await?;
        let told = AssertUnwindSafe(async {
            body(&world, &tenant, &set).await?;
            allocation::assert_no_gpu_is_given_twice(&world).await
        })
        .catch_unwind()
        .await;
        let failed = !matches!(told, Ok(Ok(())));
        if let Ok(Err(error)) = &told {
            // Before and after what the cluster looked like: reports keep the beginning and the end.
            eprintln!("{error:#}");
        }
        if failed {
            eprintln!("{}", diagnosis::of(&world, &tenant).await);
        }
        let restored = world.restore().await;
        let removed = if failed && std::env::var_os("E2E_KEEP").is_some() {
            Ok(())
        } else {
            tenant.leave(&world).await
        };
        match told {
            Err(panic) => resume_unwind(panic),
            Ok(Err(error)) => Err(error),
            Ok(Ok(())) => restored.and(removed).context("clean up after the story"),
        }
    })
}

/// The test's function, which names its thread.
fn name_of_this_test() -> String {
    let thread = std::thread::current();
    let name = thread.name().unwrap_or("story");
    name.rsplit("::").next().unwrap_or(name).replace('_', "-")
}
