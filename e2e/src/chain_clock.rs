//! The chain's blocks and its clock, which stories hold and push.

use std::time::Duration;

use alloy::{eips::BlockNumberOrTag, primitives::B256, providers::Provider as _};
use anyhow::{Context as _, Result, ensure};
use serde_json::json;

use crate::{
    chain::Chain,
    wait::{Look, look_until},
    world::World,
};

impl Chain {
    /// The time of the last block, in Unix seconds.
    pub async fn now(&self) -> Result<u64> {
        let block = self
            .rpc
            .get_block_by_number(BlockNumberOrTag::Latest)
            .await?
            .context("the chain has no block")?;
        Ok(block.header.timestamp)
    }

    /// The time of the block of this number, in Unix seconds.
    pub async fn block_time(&self, number: u64) -> Result<u64> {
        let block = self.rpc.get_block_by_number(number.into()).await?;
        let block = block.with_context(|| format!("the chain has no block {number}"))?;
        Ok(block.header.timestamp)
    }

    /// Mines a block at once.
    pub async fn mine(&self) -> Result<()> {
        self.call("evm_mine", json!([])).await.map(drop)
    }

    /// Mines this many blocks at once.
    pub async fn mine_blocks(&self, count: u64) -> Result<()> {
        self.call("anvil_mine", json!([count])).await.map(drop)
    }

    /// Lets the clock jump ahead and mines a block.
    pub async fn warp(&self, by: Duration) -> Result<()> {
        self.call("evm_increaseTime", json!([by.as_secs()])).await?;
        self.mine().await
    }

    /// Lets the clock jump to this time, in Unix seconds, and mines a block. A time that is over already needs neither.
    pub async fn warp_to(&self, time: u64) -> Result<()> {
        let now = self.now().await?;
        if time > now {
            self.warp(Duration::from_secs(time - now)).await?;
        }
        Ok(())
    }

    /// Mines a block with exactly this time, in Unix seconds; it must be later than the last block's.
    pub async fn mine_at(&self, time: u64) -> Result<()> {
        self.call("evm_setNextBlockTimestamp", json!([time]))
            .await?;
        self.mine().await?;
        let now = self.now().await?;
        ensure!(
            now == time,
            "the block has the time {now}, not {time}: is another one mined meanwhile?"
        );
        Ok(())
    }

    /// Mines no more blocks by itself until [`Chain::mine_every_second`], or until the story's end.
    pub async fn mine_only_on_demand(&self, world: &World) -> Result<()> {
        let chain = self.clone();
        world.undo_at_the_end("let the chain mine a block a second", async move {
            chain.mine_every_second().await
        });
        self.call("evm_setIntervalMining", json!([0]))
            .await
            .map(drop)
    }

    /// Mines a block a second.
    pub async fn mine_every_second(&self) -> Result<()> {
        self.call("evm_setIntervalMining", json!([1]))
            .await
            .map(drop)
    }

    /// Waits until the chain has a transaction, in its pool or in a block.
    pub async fn until_it_has(&self, transaction: B256) -> Result<()> {
        look_until("the chain has the transaction", || async {
            let found = self.rpc.get_transaction_by_hash(transaction).await?;
            Ok(Look::whether(found.is_some(), || {
                format!("{transaction} is unknown")
            }))
        })
        .await
    }

    /// Waits until the chain's clock has gone on by `seconds`.
    pub async fn until_later(&self, seconds: u64) -> Result<()> {
        let until = self.now().await? + seconds;
        look_until("the chain's clock goes on", || async {
            let now = self.now().await?;
            Ok(Look::whether(now >= until, || {
                format!("{} s are left", until.saturating_sub(now))
            }))
        })
        .await
    }
}
