//! An epoch of a lane's log of uptime as a file, written down as batches are: canonical lines of JSON, each with its check.
//!
//! ```text
//! objects/<first two digits of the address>/<address>                     the file
//! lanes/<chain id>-<contract>-<lane>/uptime/<epoch in 10 digits>          its address and a line feed; written once
//! lanes/<chain id>-<contract>-<lane>/uptime/newest                        the same of the newest epoch
//! ```
//!
//! | line | fields, in this order |
//! |---|---|
//! | head | `format` (`gridstake-uptime`), `version` (1), `chainId`, `contract`, `lane`, `epoch`, `previous`, `root`, `head`, `nodes` (how many) |
//! | node, in ascending order of names | `node`, `provider`, `watched`, `up`, `gpus`, `healthy` |

use alloy_primitives::{Address, B256};

use super::{
    decode::{Malformed, Read, Reader, lines},
    encode::Line,
};
use crate::{
    earnings::LaneId,
    uptime::{EpochUptime, NodeUptime},
};

/// What the first line of a file begins with.
pub const FORMAT: &str = "gridstake-uptime";
const VERSION: u64 = 1;

/// The index of an epoch.
#[must_use]
pub fn index_path(lane: LaneId, epoch: u32) -> String {
    format!("{}/{epoch:010}", folder(lane))
}

/// The index of the newest epoch.
#[must_use]
pub fn newest_path(lane: LaneId) -> String {
    format!("{}/newest", folder(lane))
}

fn folder(lane: LaneId) -> String {
    format!(
        "{}/uptime",
        super::lane_root(lane.chain_id, lane.settlement, lane.lane)
    )
}

/// The file of an epoch.
#[must_use]
pub fn encode(lane: LaneId, epoch: &EpochUptime) -> Vec<u8> {
    let mut file = Vec::new();
    let mut head = Line(String::new());
    head.text(r#"{"format":"#, FORMAT);
    head.number(r#","version":"#, VERSION);
    head.number(r#","chainId":"#, lane.chain_id);
    head.hex(r#","contract":"#, lane.settlement.as_slice());
    head.number(r#","lane":"#, lane.lane.into());
    head.number(r#","epoch":"#, epoch.epoch.into());
    head.hex(r#","previous":"#, epoch.previous.as_slice());
    head.hex(r#","root":"#, epoch.root().as_slice());
    head.hex(r#","head":"#, epoch.head().as_slice());
    head.number(r#","nodes":"#, epoch.nodes.len() as u64);
    head.end(&mut file);
    for node in &epoch.nodes {
        let mut text = Line(String::new());
        text.text(r#"{"node":"#, &node.node);
        text.number(r#","provider":"#, node.provider.into());
        text.number(r#","watched":"#, node.watched.into());
        text.number(r#","up":"#, node.up.into());
        text.number(r#","gpus":"#, node.gpus.into());
        text.number(r#","healthy":"#, node.healthy.into());
        text.end(&mut file);
    }
    file
}

/// Why bytes are no file of an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// A line is none.
    #[error(transparent)]
    Line(#[from] Malformed),
    /// There are not as many lines of nodes as the head says.
    #[error("the file has {found} lines of nodes, and {expected} by its head")]
    Lines {
        /// How many there are.
        found: usize,
        /// How many there should be.
        expected: u64,
    },
    /// Every line is one, and the file is not what follows from its content: a hash or a check is another, or nodes are
    /// out of order.
    #[error("byte {at}: this does not follow from what the file says")]
    Content {
        /// The first byte that is wrong.
        at: usize,
    },
}

/// Reads the file of an epoch, and checks that each hash in it follows from its content.
pub fn decode(file: &[u8]) -> Result<(LaneId, EpochUptime), Unreadable> {
    let places = lines(file);
    let first = places.first().cloned().unwrap_or(0..0);
    let (lane, epoch, previous, count) = head(Reader::new(file, first))?;
    let nodes = places.get(1..).unwrap_or_default();
    if nodes.len() as u64 != count {
        return Err(Unreadable::Lines {
            found: nodes.len(),
            expected: count,
        });
    }
    let mut nodes: Vec<NodeUptime> = nodes
        .iter()
        .map(|place| node(Reader::new(file, place.clone())))
        .collect::<Read<_>>()?;
    nodes.sort_by(|a, b| a.node.cmp(&b.node));
    let epoch = EpochUptime {
        epoch,
        previous,
        nodes,
    };
    let written = encode(lane, &epoch);
    let differs = file.iter().zip(&written).position(|(a, b)| a != b);
    match differs {
        None if file.len() == written.len() => Ok((lane, epoch)),
        at => Err(Unreadable::Content {
            at: at.unwrap_or(file.len().min(written.len())),
        }),
    }
}

fn head(mut read: Reader<'_>) -> Read<(LaneId, u32, B256, u64)> {
    read.literal(r#"{"format":""#, "the begin of an epoch of uptime")?;
    read.literal(FORMAT, "the format's name")?;
    read.literal(r#"","version":1"#, "version 1")?;
    read.field(r#","chainId":"#)?;
    let chain_id = read.number()?;
    read.field(r#","contract":"#)?;
    let settlement: Address = read.address()?;
    read.field(r#","lane":"#)?;
    let lane = read.number32()?;
    read.field(r#","epoch":"#)?;
    let epoch = read.number32()?;
    read.field(r#","previous":"#)?;
    let previous = read.hash()?;
    read.field(r#","root":"#)?;
    read.hash()?;
    read.field(r#","head":"#)?;
    read.hash()?;
    read.field(r#","nodes":"#)?;
    let nodes = read.number()?;
    read.check()?;
    let lane = LaneId {
        chain_id,
        settlement,
        lane,
    };
    Ok((lane, epoch, previous, nodes))
}

fn node(mut line: Reader<'_>) -> Read<NodeUptime> {
    line.literal(r#"{"node":"#, "the line of a node")?;
    let node = line.text()?;
    line.field(r#","provider":"#)?;
    let provider = line.number32()?;
    line.field(r#","watched":"#)?;
    let watched = line.number16()?;
    line.field(r#","up":"#)?;
    let up = line.number16()?;
    line.field(r#","gpus":"#)?;
    let gpus = line.number32()?;
    line.field(r#","healthy":"#)?;
    let healthy = line.number32()?;
    line.check()?;
    Ok(NodeUptime {
        node,
        provider,
        watched,
        up,
        gpus,
        healthy,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LANE: LaneId = LaneId {
        chain_id: 8453,
        settlement: Address::repeat_byte(0xab),
        lane: 7,
    };

    fn epoch() -> EpochUptime {
        let node = |name: &str, up| NodeUptime {
            node: name.to_owned(),
            provider: 3,
            watched: 0x3ff,
            up,
            gpus: 8,
            healthy: 7,
        };
        EpochUptime {
            epoch: 2_993_184,
            previous: B256::repeat_byte(5),
            nodes: vec![node("n1", 0x3ff), node("n\"2", 1)],
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let mut epoch = epoch();
        epoch.nodes.sort_by(|a, b| a.node.cmp(&b.node));
        let file = encode(LANE, &epoch);
        assert_eq!(decode(&file), Ok((LANE, epoch.clone())));
        let text = String::from_utf8(file).unwrap();
        assert!(text.starts_with(r#"{"format":"gridstake-uptime","version":1,"chainId":8453,"#));
        assert_eq!(text.lines().count(), 3);
        epoch.nodes.clear();
        assert_eq!(decode(&encode(LANE, &epoch)), Ok((LANE, epoch)));
    }

    #[test]
    fn nodes_out_of_order_are_refused() {
        let mut epoch = epoch();
        epoch.nodes.sort_by(|a, b| b.node.cmp(&a.node));
        let read = decode(&encode(LANE, &epoch));
        assert!(matches!(read, Err(Unreadable::Content { .. })), "{read:?}");
    }

    #[test]
    fn the_indices_sort_by_epoch() {
        assert!(index_path(LANE, 9) < index_path(LANE, 10));
        assert!(index_path(LANE, 9).ends_with("-7/uptime/0000000009"));
        assert!(newest_path(LANE).ends_with("-7/uptime/newest"));
    }

    proptest! {
        #[test]
        fn a_byte_that_is_changed_or_missing_is_found(at: prop::sample::Index, bit in 0_u8..8, cut: prop::sample::Index) {
            let mut epoch = epoch();
            epoch.nodes.sort_by(|a, b| a.node.cmp(&b.node));
            let file = encode(LANE, &epoch);
            let mut changed = file.clone();
            changed[at.index(file.len())] ^= 1 << bit;
            // Only another lane or epoch, whose hashes are right, would be another file; one bit makes none.
            prop_assert!(decode(&changed).is_err());
            prop_assert!(decode(&file[..cut.index(file.len())]).is_err());
        }
    }
}
