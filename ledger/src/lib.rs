//! Money and evidence as pure functions. Nothing here reads a clock, a file or a network.
//!
//! | module | what |
//! |---|---|
//! | [`amount`] | nano-tokens, prices on the wire, the one rounding of a group |
//! | [`archive`] | a final batch as a file that an auditor can read |
//! | [`billing`] | what of a lease is billed, slice by slice; emissions |
//! | [`checkpoint`] | an agent's signed, hash-chained statements and their verification |
//! | [`refusal`] | what cannot be true of an agent's statements, and which of them stand |
//! | [`receipt`] | what stands under a batch's usage root for one record |
//! | [`earnings`] | what each provider got in a week, from the chain's batches |
//! | [`performance`] | what a GPU's measured speed weighs, against one reference device |
//! | [`merkle`] | roots and proofs as OpenZeppelin's `MerkleProof` verifies them |
//! | [`batch`] | the payload of `Settlement.settle`: encoder, strict decoder, the lane's hash chain |
//! | [`statement`] | what a lane states on chain beside payments: inventories, uptime, the week's earnings |
//! | [`typed`] | the EIP-712 structs that people, agents and the operator sign |
//! | [`uptime`] | which node was up in which minute, as one hash chain |
//! | [`verify`] | archive against chain: what is wrong, and where |
//! | [`week`] | weeks of ISO 8601 |
//! | [`signature`] | 65-byte signatures: reading, normalising, recovering |

pub mod amount;
pub mod archive;
pub mod batch;
pub mod billing;
pub mod checkpoint;
pub mod earnings;
pub mod merkle;
pub mod performance;
pub mod receipt;
pub mod refusal;
pub mod signature;
pub mod statement;
pub mod typed;
pub mod uptime;
pub mod verify;
pub mod week;

#[cfg(test)]
mod fuzz;
