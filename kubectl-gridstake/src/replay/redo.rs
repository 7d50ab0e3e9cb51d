//! A decision, made again from the lines of the log alone. Pure.
//!
//! Written from docs/scheduling.md, and not from the scheduler: it is there to notice where the two differ.

use std::collections::{BTreeMap, BTreeSet};

use alloy::primitives::{B256, keccak256};
use gridstake_ledger::archive::decisions::{Decided, Drawn, Node, Request};

use super::fits;

/// The name of the draw that is understood here.
pub const DRAW: &str = "gridstake-draw/1";
/// The domain of the hashes of decisions.
const DOMAIN: &str = "gridstake-decision/2";

/// Where a decision differs from what follows from the fleet and the request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Which part of it.
    pub part: &'static str,
    /// What the log says.
    pub found: String,
    /// What follows.
    pub expected: String,
}

impl Difference {
    fn new(part: &'static str, found: &impl ToString, expected: &impl ToString) -> Self {
        Self {
            part,
            found: found.to_string(),
            expected: expected.to_string(),
        }
    }
}

/// Makes the decision again on `fleet`, whose weights are those in the draw; the first thing that differs, in the order in which one follows from the other.
///
/// # Errors
/// A difference, or a draw that is not known here.
pub fn redo(fleet: &BTreeMap<String, Node>, decided: &Decided) -> Result<(), Difference> {
    if decided.draw != DRAW {
        return Err(Difference::new("the draw", &decided.draw, &DRAW));
    }
    let (obstacles, fit) = fits::sort(fleet.values(), &decided.request, decided.at_ms);
    let candidates = u32::try_from(fit.len()).unwrap_or(u32::MAX);
    if decided.candidates != candidates {
        return Err(Difference::new(
            "the number of nodes that could take a member",
            &decided.candidates,
            &candidates,
        ));
    }
    let total = fit
        .iter()
        .fold(0_u64, |sum, node| sum.saturating_add(node.weight));
    if decided.total_weight != total {
        return Err(Difference::new(
            "the sum of their weights",
            &decided.total_weight,
            &total,
        ));
    }
    if decided.rejections != obstacles {
        return Err(Difference::new(
            "the counts of reasons",
            &format!("{:?}", decided.rejections),
            &format!("{obstacles:?}"),
        ));
    }
    let drawn = seed(decided).and_then(|seed| draw(&fit, &decided.request, seed));
    let Some(drawn) = drawn else {
        let expected = "no place: not all members find room";
        return Err(Difference::new("the placement", &"one", &expected));
    };
    if decided.drawn != drawn {
        let told = |all: &[Drawn]| {
            let one = |drawn: &Drawn| {
                let stage = if drawn.partly_used {
                    "partly used"
                } else {
                    "all"
                };
                format!(
                    "{} by {} of {} ({stage})",
                    drawn.winner, drawn.number, drawn.total
                )
            };
            all.iter().map(one).collect::<Vec<_>>().join(", ")
        };
        return Err(Difference::new(
            "what was drawn",
            &told(&decided.drawn),
            &told(&drawn),
        ));
    }
    let hash = hash(decided).unwrap_or_default();
    if decided.hash != hash {
        return Err(Difference::new("the hash", &decided.hash, &hash));
    }
    Ok(())
}

/// One node among those that can take a member.
struct Ticket<'a> {
    node: &'a Node,
    room: u64,
    in_use: bool,
}

/// The draws of all members among the nodes that can take one, in canonical order; `None`: they do not all find room.
pub fn draw(fit: &[&Node], request: &Request, seed: B256) -> Option<Vec<Drawn>> {
    let members = request.members.max(1);
    let mut tickets: Vec<Ticket<'_>> = fit
        .iter()
        .map(|node| Ticket {
            node,
            room: fits::room(node, request),
            in_use: node.taken.gpus > 0,
        })
        .collect();
    let key = request.closeness.as_ref().map(|wanted| wanted.key.as_str());
    let value = |node: &'_ Node| -> Option<String> { node.labels.get(key?).cloned() };
    let mut together = false;
    if let Some(wanted) = &request.closeness {
        let mut rooms: BTreeMap<String, u64> = BTreeMap::new();
        for ticket in &tickets {
            if let Some(value) = value(ticket.node) {
                let room = rooms.entry(value).or_default();
                *room = room.saturating_add(ticket.room);
            }
        }
        let wide: BTreeSet<String> = rooms
            .into_iter()
            .filter_map(|(value, room)| (room >= u64::from(members)).then_some(value))
            .collect();
        together = wanted.required || !wide.is_empty();
        if together {
            tickets.retain(|ticket| value(ticket.node).is_some_and(|value| wide.contains(&value)));
        }
    }
    let rooms = tickets
        .iter()
        .fold(0_u64, |sum, ticket| sum.saturating_add(ticket.room));
    if rooms < u64::from(members) {
        return None;
    }
    let mut stream = Stream::new(seed);
    let mut drawn: Vec<Drawn> = Vec::new();
    for _ in 0..members {
        let partly_used = tickets
            .iter()
            .any(|ticket| ticket.in_use && ticket.room > 0);
        let counts = |ticket: &Ticket<'_>| {
            if ticket.room == 0 || (partly_used && !ticket.in_use) {
                0
            } else {
                ticket.node.weight
            }
        };
        let total = tickets
            .iter()
            .fold(0_u64, |sum, ticket| sum.saturating_add(counts(ticket)));
        let number = stream.below(total);
        let mut passed = 0_u64;
        let winner = tickets.iter_mut().find(|ticket| {
            passed = passed.saturating_add(counts(ticket));
            passed > number
        })?;
        winner.room -= 1;
        winner.in_use = true;
        let (name, domain) = (winner.node.name.clone(), value(winner.node));
        if together && drawn.is_empty() {
            tickets.retain(|ticket| value(ticket.node) == domain);
        }
        drawn.push(Drawn {
            partly_used,
            total,
            number,
            winner: name,
        });
    }
    Some(drawn)
}

/// The sixteen bytes of a uid.
fn uid(text: &str) -> Option<[u8; 16]> {
    let digits = text.replace('-', "");
    let number = u128::from_str_radix(&digits, 16).ok()?;
    (digits.len() == 32).then(|| number.to_be_bytes())
}

fn seed(decided: &Decided) -> Option<B256> {
    let mut bytes = DRAW.as_bytes().to_vec();
    bytes.extend(decided.block);
    bytes.extend(decided.previous);
    bytes.extend(uid(&decided.job)?);
    bytes.extend(decided.attempt.to_be_bytes());
    Some(keccak256(bytes))
}

/// The numbers that follow from a seed.
struct Stream {
    seed: B256,
    taken: u64,
}

impl Stream {
    const fn new(seed: B256) -> Self {
        Self { seed, taken: 0 }
    }

    fn word(&mut self) -> u64 {
        let (block, limb) = (self.taken / 4, self.taken % 4);
        self.taken += 1;
        let bytes = if block == 0 {
            self.seed
        } else {
            keccak256([self.seed.as_slice(), &block.to_be_bytes()].concat())
        };
        let from = usize::try_from(limb * 8).unwrap_or(0);
        let limb = bytes.get(from..from + 8).and_then(|b| b.try_into().ok());
        u64::from_be_bytes(limb.unwrap_or_default())
    }

    fn below(&mut self, total: u64) -> u64 {
        if total == 0 {
            return 0;
        }
        let limit = (1_u128 << 64) % u128::from(total);
        loop {
            let product = u128::from(self.word()) * u128::from(total);
            if product % (1 << 64) >= limit {
                return u64::try_from(product >> 64).unwrap_or(u64::MAX);
            }
        }
    }
}

/// The hash of the decision's record; `None` if its job's uid is none.
fn hash(decided: &Decided) -> Option<B256> {
    fn text(bytes: &mut Vec<u8>, text: &str) {
        number(bytes, text.len());
        bytes.extend(text.as_bytes());
    }
    fn number(bytes: &mut Vec<u8>, number: usize) {
        bytes.extend(u32::try_from(number).unwrap_or(u32::MAX).to_be_bytes());
    }
    let mut bytes = Vec::new();
    text(&mut bytes, DOMAIN);
    text(&mut bytes, &decided.draw);
    bytes.extend(uid(&decided.job)?);
    bytes.extend(decided.attempt.to_be_bytes());
    bytes.extend(decided.block);
    bytes.extend(decided.previous);
    bytes.extend(decided.state);
    bytes.extend(decided.snapshot.to_be_bytes());
    bytes.extend(decided.candidates.to_be_bytes());
    bytes.extend(decided.total_weight.to_be_bytes());
    number(&mut bytes, decided.drawn.len());
    for drawn in &decided.drawn {
        bytes.push(u8::from(drawn.partly_used));
        bytes.extend(drawn.total.to_be_bytes());
        bytes.extend(drawn.number.to_be_bytes());
        text(&mut bytes, &drawn.winner);
    }
    number(&mut bytes, decided.rejections.len());
    for (reason, nodes) in &decided.rejections {
        text(&mut bytes, reason);
        bytes.extend(nodes.to_be_bytes());
    }
    Some(keccak256(bytes))
}
