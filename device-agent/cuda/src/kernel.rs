//! The kernel of `fma.ptx`: how it is called, and what it must answer.

use std::{
    ffi::{CStr, c_void},
    marker::PhantomData,
    ptr,
};

use crate::{
    Buffer, CudaError, Session,
    functions::{Functions, Handle},
};

/// The text of the kernel, as the driver takes it: with a zero at its end.
const PTX: &str = concat!(include_str!("fma.ptx"), "\0");
/// The kernel's name in it.
const NAME: &CStr = c"gridstake_fma";

/// How many results there are: a thread's depends on its place in its warp alone.
pub const LANES: usize = 32;
/// Fused multiply-adds of one thread in one turn.
pub const STEPS_PER_TURN: u64 = 128;
/// Chains of a thread.
const CHAINS: u32 = 8;
/// Steps of one chain in one turn.
const STEPS_OF_A_CHAIN: u32 = 16;
/// What each step adds. The map `x² − 1.9375` keeps within ±2 and is chaotic there.
const ADDEND: f32 = -1.9375;

/// How much is calculated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Work {
    /// Blocks of threads.
    pub blocks: u32,
    /// Threads of a block, a multiple of [`LANES`].
    pub threads: u32,
    /// Turns of each thread; at least 1.
    pub turns: u32,
}

impl Work {
    /// All threads: as many words are written.
    #[must_use]
    pub const fn results(self) -> u64 {
        self.blocks as u64 * self.threads as u64
    }

    /// Operations in single precision: a fused multiply-add is two.
    #[must_use]
    pub const fn operations(self) -> u64 {
        self.results() * STEPS_PER_TURN * self.turns as u64 * 2
    }

    /// What the threads of each warp write, calculated here.
    #[must_use]
    pub fn expected(self) -> [u32; LANES] {
        let mut results = [0_u32; LANES];
        for (lane, result) in (0_u16..).zip(results.iter_mut()) {
            for chain in 0..CHAINS {
                let seed = f32::from(lane) * 8.0 + chain_number(chain);
                let mut x = seed.mul_add(1.0 / 256.0, -0.5);
                for _ in 0..self.turns.saturating_mul(STEPS_OF_A_CHAIN) {
                    x = x.mul_add(x, ADDEND);
                }
                *result ^= x.to_bits();
            }
        }
        results
    }
}

fn chain_number(chain: u32) -> f32 {
    // Below 8, so exact.
    f32::from(u8::try_from(chain).unwrap_or(0))
}

/// The kernel, made for one device.
#[derive(Debug)]
pub struct Kernel<'s> {
    functions: &'s Functions,
    module: Handle,
    function: Handle,
    session: PhantomData<&'s ()>,
}

impl<'s> Kernel<'s> {
    pub(crate) fn load(session: &'s Session<'_>) -> Result<Self, CudaError> {
        let functions = session.functions();
        let mut module: Handle = ptr::null_mut();
        // SAFETY: the text ends with a zero, and the handle may be written.
        let answer = unsafe {
            (functions.cu_module_load_data)(&raw mut module, PTX.as_ptr().cast::<c_void>())
        };
        functions.check("cuModuleLoadData", answer)?;
        let mut kernel = Self {
            functions,
            module,
            function: ptr::null_mut(),
            session: PhantomData,
        };
        // SAFETY: the module is loaded, the name ends with a zero, and the handle may be written.
        let answer = unsafe {
            (functions.cu_module_get_function)(&raw mut kernel.function, module, NAME.as_ptr())
        };
        functions.check("cuModuleGetFunction", answer)?;
        Ok(kernel)
    }

    /// Has the device do `work` and write a word of each thread into `results`. It is not waited for.
    pub fn run(&self, work: Work, results: &Buffer<'_>) -> Result<(), CudaError> {
        let needed = work.results().saturating_mul(4);
        let room = u64::try_from(results.words())
            .unwrap_or(u64::MAX)
            .saturating_mul(4);
        if needed > room {
            return Err(CudaError::BufferTooSmall { needed, room });
        }
        let mut address = results.address();
        let mut turns = work.turns;
        let mut addend = ADDEND;
        let mut arguments: [*mut c_void; 3] = [
            (&raw mut address).cast(),
            (&raw mut turns).cast(),
            (&raw mut addend).cast(),
        ];
        // SAFETY: the arguments are those of the kernel in fma.ptx, each of its size, and are copied by the call; each
        // thread writes the word of its own number, for which there is room.
        let answer = unsafe {
            (self.functions.cu_launch_kernel)(
                self.function,
                work.blocks,
                1,
                1,
                work.threads,
                1,
                1,
                0,
                ptr::null_mut(),
                arguments.as_mut_ptr(),
                ptr::null_mut(),
            )
        };
        self.functions.check("cuLaunchKernel", answer)
    }
}

impl Drop for Kernel<'_> {
    fn drop(&mut self) {
        // SAFETY: the module was loaded by this kernel, which nobody can call any more.
        unsafe {
            (self.functions.cu_module_unload)(self.module);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORK: Work = Work {
        blocks: 2,
        threads: 64,
        turns: 1000,
    };

    #[test]
    fn work_is_counted_as_the_kernel_does_it() {
        assert_eq!(WORK.results(), 128);
        assert_eq!(WORK.operations(), 128 * 128 * 1000 * 2);
        let steps = PTX.matches("fma.rn.f32").count();
        // Beside the steps of a turn there is one for the beginning of each chain.
        let beginnings = usize::try_from(CHAINS).unwrap();
        assert_eq!(
            u64::try_from(steps - beginnings).unwrap(),
            STEPS_PER_TURN,
            "{steps}"
        );
        assert_eq!(u64::from(CHAINS * STEPS_OF_A_CHAIN), STEPS_PER_TURN);
    }

    #[test]
    fn every_lane_has_a_result_of_its_own_and_a_turn_more_or_less_makes_others() {
        let expected = WORK.expected();
        let distinct: std::collections::BTreeSet<_> = expected.iter().collect();
        assert_eq!(distinct.len(), LANES);
        let longer = Work {
            turns: WORK.turns + 1,
            ..WORK
        };
        assert!(longer.expected().iter().zip(&expected).all(|(a, b)| a != b));
    }

    #[test]
    fn the_numbers_stay_within_their_bounds_however_long_it_goes_on() {
        for seed in 0_u8..=255 {
            let mut x = f32::from(seed).mul_add(1.0 / 256.0, -0.5);
            for _ in 0..10_000 {
                x = x.mul_add(x, ADDEND);
                assert!(x.abs() <= 2.0, "{seed}: {x}");
            }
        }
    }

    #[test]
    fn an_error_that_is_not_rounded_away_at_once_makes_another_result_however_long_ago_it_was() {
        let run = |upset: Option<usize>| {
            let mut x = 0.25_f32;
            for step in 0..1000 {
                x = x.mul_add(x, ADDEND);
                if upset == Some(step) {
                    x = f32::from_bits(x.to_bits() ^ (1 << 12));
                }
            }
            x.to_bits()
        };
        for step in [0, 1, 17, 500, 998, 999] {
            assert_ne!(run(Some(step)), run(None), "{step}");
        }
    }

    #[test]
    fn the_kernel_has_the_name_and_the_end_that_the_driver_looks_for() {
        assert!(PTX.contains(".visible .entry gridstake_fma("));
        assert_eq!(PTX.matches('\0').count(), 1);
        assert!(PTX.ends_with('\0'));
        assert!(PTX.is_ascii());
    }
}
