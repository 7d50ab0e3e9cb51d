//! What goes wrong with a chain: it is away, or it is not what is configured.

use alloy::{
    primitives::{Address, Bytes, bytes},
    providers::Provider as _,
};
use anyhow::{Context as _, Result};
use serde_json::json;

use crate::{
    chain::{Chain, NAMESPACE},
    command::kubectl,
    world::World,
};

/// More blocks than the operator links one by one: after them it looks at everything anew, the contracts' code included.
const A_LONG_ABSENCE: u64 = 70;

/// The code of a token that says 1 to everything and moves nothing: a transfer succeeds, and nobody has more after it.
const GREEDY_TOKEN: Bytes = bytes!("600160005260206000f3");

impl Chain {
    /// Halts the chain's process: calls get no answer. At the story's end it goes on in any case.
    pub async fn stop(&self, world: &World) -> Result<()> {
        world.undo_at_the_end("let the chain go on", signal("CONT"));
        signal("STOP").await
    }

    /// Lets the chain's process go on.
    pub async fn start(&self) -> Result<()> {
        signal("CONT").await
    }

    /// Gives the contract at `address` one more byte of code, which does nothing, and lets followers of the chain look at
    /// it. Returns what puts it right; at the story's end that is done in any case.
    pub async fn alter_code(&self, world: &World, address: Address) -> Result<Bytes> {
        let code = self.code(address).await?;
        self.put_back_code_at_the_end(world, address, &code);
        self.set_code(address, &Bytes::from([code.as_ref(), &[0]].concat()))
            .await?;
        self.mine_blocks(A_LONG_ABSENCE).await?;
        Ok(code)
    }

    /// Gives the contract at `address` this code, and lets followers of the chain look at it.
    pub async fn mend_code(&self, address: Address, code: &Bytes) -> Result<()> {
        self.set_code(address, code).await?;
        self.mine_blocks(A_LONG_ABSENCE).await
    }

    /// Gives the chain another id, and lets followers of the chain look at it. At the story's end it has its own again.
    pub async fn alter_id(&self, world: &World, id: u64) -> Result<()> {
        let chain = self.clone();
        world.undo_at_the_end("give the chain its id back", async move {
            chain.set_id(chain.chain_id).await
        });
        self.set_id(id).await
    }

    /// Gives the chain this id, and lets followers of the chain look at it.
    pub async fn set_id(&self, id: u64) -> Result<()> {
        self.call("anvil_setChainId", json!([id])).await?;
        self.mine_blocks(A_LONG_ABSENCE).await
    }

    /// Lets the token keep all of every transfer for itself, until [`Chain::mend_code`] or the story's end. Returns its
    /// code.
    pub async fn make_token_greedy(&self, world: &World) -> Result<Bytes> {
        let code = self.code(self.token).await?;
        self.put_back_code_at_the_end(world, self.token, &code);
        self.set_code(self.token, &GREEDY_TOKEN).await?;
        Ok(code)
    }

    /// How many transactions of an account are in blocks.
    pub async fn transactions_of(&self, account: Address) -> Result<u64> {
        self.rpc
            .get_transaction_count(account)
            .await
            .context("count an account's transactions")
    }

    async fn code(&self, address: Address) -> Result<Bytes> {
        self.rpc
            .get_code_at(address)
            .await
            .context("read a contract's code")
    }

    async fn set_code(&self, address: Address, code: &Bytes) -> Result<()> {
        self.call("anvil_setCode", json!([address, code]))
            .await
            .map(drop)
    }

    fn put_back_code_at_the_end(&self, world: &World, address: Address, code: &Bytes) {
        let (chain, code) = (self.clone(), code.clone());
        world.undo_at_the_end(format!("put back the code of {address}"), async move {
            if chain.code(address).await? == code {
                return Ok(());
            }
            chain.mend_code(address, &code).await
        });
    }
}

async fn signal(name: &'static str) -> Result<()> {
    let script = format!("kill -{name} $(pidof anvil)");
    kubectl([
        "exec",
        "--namespace",
        NAMESPACE,
        "deployment/anvil",
        "--container=anvil",
        "--",
        "sh",
        "-c",
        &script,
    ])
    .await
    .map(drop)
}
