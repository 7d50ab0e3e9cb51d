//! Tells a story: the frame around the body of each test.

use std::panic::{AssertUnwindSafe, resume_unwind};

use anyhow::{Context as _, Result};
use futures::FutureExt as _;

use crate::{allocation, diagnosis, market::Market, tenant::Tenant, world::World};

/// Tells a story to the cluster: waits for its turn and until all is well, gives it a namespace, and afterwards, also
/// when it failed, puts right what it disturbed and removes what it made. A story that failed says what the cluster
/// looked like. With `E2E_KEEP=1` the namespace of a failed story stays.
pub fn story(body: impl AsyncFnOnce(&World, &Tenant) -> Result<()>) -> Result<()> {
    told(
        async |_| Ok(()),
        async |world, tenant, ()| body(world, tenant).await,
    )
}

/// As [`story`], in a world with a chain, in which each node has a staked provider.
pub fn paid_story(body: impl AsyncFnOnce(&World, &Tenant, &Market) -> Result<()>) -> Result<()> {
    told(Market::open, async |world, tenant, market| {
        body(world, tenant, &market).await
    })
}

fn told<S>(
    stage: impl AsyncFnOnce(&World) -> Result<S>,
    body: impl AsyncFnOnce(&World, &Tenant, S) -> Result<()>,
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
            body(&world, &tenant, set).await?;
            allocation::assert_no_gpu_is_given_twice(&world).await
        })
        .catch_unwind()
        .await;
        let failed = !matches!(told, Ok(Ok(())));
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
