//! What stands under a batch's usage root for one record.

use alloy_primitives::{B256, keccak256};
use alloy_sol_types::SolValue as _;

/// What the lane pays for one record, and the hash of what it rests on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// The lane.
    pub lane: u32,
    /// The record's number on it.
    pub job_no: u64,
    /// The payer's account number on the lane.
    pub payer: u32,
    /// The provider's account number.
    pub provider: u32,
    /// GPU-milliseconds.
    pub units: u64,
    /// The price as on the wire: 10⁻¹⁸ token per GPU-millisecond.
    pub price: u64,
    /// [`RecordContent::hash`].
    pub record_hash: B256,
}

impl Receipt {
    /// The leaf under the usage root: `keccak256(keccak256(abi.encode(lane, jobNo, payer, provider, units, price,
    /// recordHash)))`. Hashed twice, so that no inner node of the tree can pass for one.
    #[must_use]
    pub fn leaf(&self) -> B256 {
        let encoded = (
            self.lane,
            self.job_no,
            self.payer,
            self.provider,
            self.units,
            self.price,
            self.record_hash,
        )
            .abi_encode();
        keccak256(keccak256(encoded))
    }
}

/// What was sealed of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordContent<'a> {
    /// The UsageRecord's name.
    pub record: &'a str,
    /// The pod's uid; empty if there never was one.
    pub pod_uid: &'a str,
    /// The node.
    pub node: &'a str,
    /// Begin of what is billed, in Unix milliseconds.
    pub start_ms: u64,
    /// End of what is billed, in Unix milliseconds.
    pub end_ms: u64,
    /// What is billed.
    pub gpu_millis: u64,
    /// Why the slice ended, as in `status.sealed.cause`.
    pub cause: &'a str,
    /// At whose door the end is laid, as in `status.sealed.verdict`; empty if at nobody's.
    pub verdict: &'a str,
    /// The head of the evidence; zero if there is none.
    pub evidence_head: B256,
}

impl RecordContent<'_> {
    /// keccak256 of the fields in their order, ABI-encoded as parameters.
    #[must_use]
    pub fn hash(&self) -> B256 {
        let encoded = (
            self.record,
            self.pod_uid,
            self.node,
            self.start_ms,
            self.end_ms,
            self.gpu_millis,
            self.cause,
            self.verdict,
            self.evidence_head,
        )
            .abi_encode_params();
        keccak256(encoded)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RECEIPT: Receipt = Receipt {
        lane: 7,
        job_no: 1792,
        payer: 3,
        provider: 9,
        units: 600_000,
        price: 720_000_000_000,
        record_hash: B256::repeat_byte(0xab),
    };

    #[test]
    fn every_field_of_a_receipt_counts() {
        let leaf = RECEIPT.leaf();
        let others = [
            Receipt { lane: 8, ..RECEIPT },
            Receipt {
                job_no: 1793,
                ..RECEIPT
            },
            Receipt {
                payer: 4,
                ..RECEIPT
            },
            Receipt {
                provider: 8,
                ..RECEIPT
            },
            Receipt {
                units: 600_001,
                ..RECEIPT
            },
            Receipt {
                price: 1,
                ..RECEIPT
            },
            Receipt {
                record_hash: B256::ZERO,
                ..RECEIPT
            },
        ];
        for other in others {
            assert_ne!(leaf, other.leaf(), "{other:?}");
        }
    }

    #[test]
    fn every_field_of_a_record_counts() {
        let content = RecordContent {
            record: "r",
            pod_uid: "p",
            node: "n",
            start_ms: 1,
            end_ms: 2,
            gpu_millis: 1,
            cause: "MemberEnded",
            verdict: "",
            evidence_head: B256::ZERO,
        };
        let hash = content.hash();
        for other in [
            RecordContent {
                record: "s",
                ..content.clone()
            },
            RecordContent {
                pod_uid: "q",
                ..content.clone()
            },
            RecordContent {
                node: "m",
                ..content.clone()
            },
            RecordContent {
                start_ms: 0,
                ..content.clone()
            },
            RecordContent {
                end_ms: 3,
                ..content.clone()
            },
            RecordContent {
                gpu_millis: 2,
                ..content.clone()
            },
            RecordContent {
                cause: "IntervalElapsed",
                ..content.clone()
            },
            RecordContent {
                verdict: "Host",
                ..content.clone()
            },
            RecordContent {
                evidence_head: B256::repeat_byte(1),
                ..content.clone()
            },
        ] {
            assert_ne!(hash, other.hash(), "{other:?}");
        }
    }
}
