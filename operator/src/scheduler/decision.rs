//! The record of a decision: everything that is needed to repeat it, and a hash that chains it to the one before.

use alloy_primitives::{B256, keccak256};
use gridstake_crds::compute_job as api;

use super::draw::{DRAW_VERSION, Seed};
use super::gang::Stage;
use super::request::JobUid;

/// Domain of decision hashes.
const DECISION_DOMAIN: &str = "gridstake-decision/2";

/// How many nodes a reason ruled out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReasonCount {
    /// The reason, without particulars.
    pub reason: &'static str,
    /// How many nodes.
    pub nodes: u32,
}

/// One member's draw, as recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drawn {
    /// Among which nodes.
    pub stage: Stage,
    /// The sum of their weights.
    pub total: u64,
    /// The number drawn below it.
    pub number: u64,
    /// The node that won.
    pub winner: String,
}

/// A decision that placed an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// The job.
    pub job_uid: JobUid,
    /// The attempt, counted from 1.
    pub attempt: u32,
    /// What the seed was derived from.
    pub seed: Seed,
    /// The state of the log of decisions before it, which vouches for the fleet on which it was made; zero where no log is
    /// kept.
    pub state: B256,
    /// The sequence number of the snapshot on which it was made.
    pub snapshot: u64,
    /// How many nodes could take a member.
    pub candidates: u32,
    /// The sum of their weights.
    pub total_weight: u64,
    /// One draw per member, in the members' order.
    pub drawn: Vec<Drawn>,
    /// How many nodes could not take a member, by the first reason, in the order of the reasons' names.
    pub rejections: Vec<ReasonCount>,
}

impl Decision {
    /// The bytes that are hashed and archived. Integers are big-endian, texts follow their length in 32 bits:
    ///
    /// `text(domain) ‖ text(draw version) ‖ uid(16) ‖ attempt(4) ‖ blockHash(32) ‖ previous(32) ‖ state(32) ‖
    /// snapshot(8) ‖ candidates(4) ‖ totalWeight(8) ‖ count(4) ‖ {stage(1: 1 partly used, 0 all) ‖ total(8) ‖ number(8) ‖
    /// text(winner)}* ‖ count(4) ‖ {text(reason) ‖ nodes(4)}*`
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(512);
        put_text(&mut bytes, DECISION_DOMAIN);
        put_text(&mut bytes, DRAW_VERSION);
        bytes.extend(self.job_uid.0);
        bytes.extend(self.attempt.to_be_bytes());
        bytes.extend(self.seed.block_hash);
        bytes.extend(self.seed.previous_decision);
        bytes.extend(self.state);
        bytes.extend(self.snapshot.to_be_bytes());
        bytes.extend(self.candidates.to_be_bytes());
        bytes.extend(self.total_weight.to_be_bytes());
        put_count(&mut bytes, self.drawn.len());
        for draw in &self.drawn {
            bytes.push(u8::from(draw.stage == Stage::PartlyUsed));
            bytes.extend(draw.total.to_be_bytes());
            bytes.extend(draw.number.to_be_bytes());
            put_text(&mut bytes, &draw.winner);
        }
        put_count(&mut bytes, self.rejections.len());
        for rejection in &self.rejections {
            put_text(&mut bytes, rejection.reason);
            bytes.extend(rejection.nodes.to_be_bytes());
        }
        bytes
    }

    /// Keccak-256 of [`Self::encode`]: what the next decision names as its previous one.
    #[must_use]
    pub fn hash(&self) -> B256 {
        keccak256(self.encode())
    }

    /// The record as it stands in a job's status.
    #[must_use]
    pub fn to_api(&self) -> api::Decision {
        api::Decision {
            draw: DRAW_VERSION.to_owned(),
            block_hash: self.seed.block_hash.to_string(),
            previous: self.seed.previous_decision.to_string(),
            hash: self.hash().to_string(),
            state: (self.state != B256::ZERO).then(|| self.state.to_string()),
            snapshot: self.snapshot,
            candidates: self.candidates,
            total_weight: self.total_weight.to_string(),
            drawn: self
                .drawn
                .iter()
                .map(|drawn| drawn.number.to_string())
                .collect(),
            rejections: self
                .rejections
                .iter()
                .map(|count| api::RejectionCount {
                    reason: count.reason.to_owned(),
                    nodes: count.nodes,
                })
                .collect(),
        }
    }
}

fn put_text(bytes: &mut Vec<u8>, text: &str) {
    put_count(bytes, text.len());
    bytes.extend(text.as_bytes());
}

fn put_count(bytes: &mut Vec<u8>, count: usize) {
    bytes.extend(u32::try_from(count).unwrap_or(u32::MAX).to_be_bytes());
}

#[cfg(test)]
mod tests {
    use alloy_primitives::b256;

    use super::*;

    fn decision() -> Decision {
        Decision {
            job_uid: JobUid([1; 16]),
            attempt: 2,
            seed: Seed {
                block_hash: B256::repeat_byte(0xAB),
                previous_decision: B256::repeat_byte(0xCD),
            },
            state: B256::repeat_byte(0xEF),
            snapshot: 7,
            candidates: 2,
            total_weight: 30,
            drawn: vec![Drawn {
                stage: Stage::PartlyUsed,
                total: 10,
                number: 4,
                winner: "node-a".to_owned(),
            }],
            rejections: vec![ReasonCount {
                reason: "Tainted",
                nodes: 3,
            }],
        }
    }

    #[test]
    fn the_hash_equals_the_published_vector() {
        assert_eq!(
            decision().hash(),
            b256!("57992166578f7fa69a8439eb24e18ea4debec0b35a0219e539fb281f895ff53c")
        );
    }

    #[test]
    fn every_field_changes_the_hash() {
        let changes: [fn(&mut Decision); 13] = [
            |d| d.job_uid.0[15] = 2,
            |d| d.attempt = 3,
            |d| d.seed.block_hash = B256::ZERO,
            |d| d.seed.previous_decision = B256::ZERO,
            |d| d.state = B256::ZERO,
            |d| d.snapshot = 8,
            |d| d.candidates = 3,
            |d| d.total_weight = 31,
            |d| d.drawn[0].stage = Stage::All,
            |d| d.drawn[0].total = 11,
            |d| d.drawn[0].number = 5,
            |d| d.drawn[0].winner.push('b'),
            |d| d.rejections[0].nodes = 4,
        ];
        let mut hashes = std::collections::BTreeSet::from([decision().hash()]);
        for alter in changes {
            let mut other = decision();
            alter(&mut other);
            assert!(hashes.insert(other.hash()), "{other:?}");
        }
    }

    #[test]
    fn the_status_shows_the_record() {
        let shown = decision().to_api();
        assert_eq!(shown.hash, decision().hash().to_string());
        assert_eq!(
            (
                shown.draw.as_str(),
                shown.total_weight.as_str(),
                shown.drawn
            ),
            ("gridstake-draw/1", "30", vec!["4".to_owned()])
        );
        assert_eq!(shown.block_hash, format!("0x{}", "ab".repeat(32)));
        assert_eq!(shown.state, Some(format!("0x{}", "ef".repeat(32))));
        assert_eq!(
            (
                shown.rejections[0].reason.as_str(),
                shown.rejections[0].nodes
            ),
            ("Tainted", 3)
        );
    }
}
