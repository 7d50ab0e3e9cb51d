//! What a GPU is worth to jobs by what is known of it: its reputation; and how steady a node is: its stability.
//!
//! | module | what |
//! |---|---|
//! | [`score`] | pure: version 1 of the reputation, term by term |
//! | [`stability`] | pure: version 1 of the stability factor |
//! | [`key`] | whose history it is: a provider's GPU |
//! | [`history`] | a GPU's history: the time that it has served, and thirty days of minutes and attempts |
//! | [`blame`] | pure: which Incidents count against which GPUs |
//! | [`counted`] | pure: what a sealed record says about its GPUs |
//! | [`looks`] | pure: what was seen of GPUs in which minutes, until it is written |
//! | [`shard`] | pure: the histories of some GPUs, and how records and minutes are counted once; its text |
//! | [`store`] | the ConfigMaps that hold the shards |
//! | [`books`] | all shards: reads them, counts, writes |
//! | [`observe`] | reads the caches |
//! | [`standing`] | what the GpuNode controller is told |
//! | [`run`] | the loop on the leader |
//!
//! A history belongs to a provider **and** a GPU's UUID. It moves with the GPU from node to node, outlives the GpuNode, and a
//! GPU that somebody else answers for begins anew. `docs/reputation.md` has the formulas and an example.
//!
//! Nothing is counted twice, whatever dies when: what is counted and the note that it was are one write, by compare-and-swap.
//! See [`shard`].

pub mod blame;
pub mod books;
pub mod counted;
pub mod history;
pub mod key;
pub mod looks;
pub mod observe;
pub mod run;
pub mod score;
pub mod shard;
pub mod stability;
pub mod standing;
pub mod store;

#[cfg(test)]
pub(crate) mod api_server;
