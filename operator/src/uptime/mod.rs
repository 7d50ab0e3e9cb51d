//! The lane's log of uptime: which node was up in which minute, in epochs of ten minutes.
//!
//! | module | what |
//! |---|---|
//! | [`epoch`] | an epoch while it is watched; pure |
//! | [`run`] | the loop on the leader: looks once a minute, writes each epoch to the archive |
//!
//! The form of the log is `gridstake_ledger::uptime`; its head is stated on chain with the next batch. Without an archive
//! there is no log: nobody could look at what its head stands for.

pub mod epoch;
pub mod run;
