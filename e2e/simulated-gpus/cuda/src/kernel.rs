//! The one kernel that is known, as its PTX says it.

use crate::device::{Answer, Failure};

/// Threads of a warp.
pub const LANES: usize = 32;
/// The kernel's name.
pub const NAME: &[u8] = b"gridstake_fma";
/// Fused multiply-adds of a thread in one turn.
pub const STEPS_PER_TURN: u64 = 128;
/// Chains of a thread.
const CHAINS: u16 = 8;

/// Takes the text of the kernel, and nothing else: no other one could be carried out.
pub fn check(ptx: &str) -> Answer {
    let steps = u64::try_from(ptx.matches("fma.rn.f32").count()).unwrap_or(0);
    let is_known = ptx.contains(".version")
        && ptx.contains(".target")
        && ptx.contains(".visible .entry gridstake_fma(")
        && steps == STEPS_PER_TURN + u64::from(CHAINS);
    if is_known {
        Ok(())
    } else {
        Err(Failure::INVALID_PTX)
    }
}

/// What each lane's thread writes after so many turns.
pub fn results(turns: u32, addend: f32) -> [u32; LANES] {
    let steps = u64::from(turns) * STEPS_PER_TURN / u64::from(CHAINS);
    let mut results = [0_u32; LANES];
    for (lane, result) in (0_u16..).zip(results.iter_mut()) {
        for chain in 0..CHAINS {
            let mut x = f32::from(lane * CHAINS + chain).mul_add(1.0 / 256.0, -0.5);
            for _ in 0..steps {
                x = x.mul_add(x, addend);
            }
            *result ^= x.to_bits();
        }
    }
    results
}
