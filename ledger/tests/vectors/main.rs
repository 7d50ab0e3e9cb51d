//! Vectors between this crate and the contracts' tests, both ways. What this crate writes is checked in forge against
//! OpenZeppelin's EIP712, ECDSA and MerkleProof, against a decoder of its own, and by settling it; what forge writes is
//! checked here. `WRITE_VECTORS=true` writes a file again; without it a file that differs fails.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "tests"
)]

mod from_forge;
mod to_forge;
mod values;
