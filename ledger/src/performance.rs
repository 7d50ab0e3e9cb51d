//! What a GPU's measured speed weighs, against one reference device. Anybody can recompute it from two whole numbers.
//!
//! A GPU is timed by a canary job (`gridstake-device-agent measure`): operations in single precision, and bytes within its memory,
//! a second. Its **performance** in thousandths is the floor of the mean of both, each as a ratio to the reference device's:
//!
//! ```text
//! permille = ⌊ 1000 × (fp32 / fp32ᵣ + memory / memoryᵣ) / 2 ⌋ = ⌊ 500 × (fp32 × memoryᵣ + memory × fp32ᵣ) / (fp32ᵣ × memoryᵣ) ⌋
//! ```
//!
//! held within 0 and [`MOST_PERMILLE`]. The mean, and not the lower of the two: work is limited by one or the other, and which is
//! not known beforehand. A reference never changes: what is measured otherwise, or against another device, has another version,
//! and a record names the version that it was weighed by.

/// A reference: the device whose performance is 1000.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reference {
    /// The version, as records name it.
    pub name: &'static str,
    /// The device.
    pub device: &'static str,
    /// Its operations in single precision, in 10⁹ a second.
    pub fp32_gflops: u64,
    /// Bytes that it reads or writes within its memory, in 10⁹ a second.
    pub memory_gbs: u64,
}

/// The reference that is in force. Both numbers are those of NVIDIA's data sheet of the A100 80GB SXM (19.5 TFLOPS FP32;
/// 2,039 GB/s), and not measured: a device reaches some nine tenths of its own in each.
pub const REFERENCE: Reference = Reference {
    name: "performance/1",
    device: "NVIDIA A100-SXM4-80GB",
    fp32_gflops: 19_500,
    memory_gbs: 2_039,
};

/// Every reference that a record may name.
pub const REFERENCES: [Reference; 1] = [REFERENCE];

/// The most that a GPU's performance is taken for: ten times the reference. No device comes near; a figure beyond is no
/// measurement.
pub const MOST_PERMILLE: u32 = 10_000;

impl Reference {
    /// The reference of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        REFERENCES
            .into_iter()
            .find(|reference| reference.name == name)
    }

    /// The performance in thousandths of a device that does so much: see the module's documentation.
    #[must_use]
    pub fn permille(&self, fp32_gflops: u64, memory_gbs: u64) -> u32 {
        let of = |a: u64, b: u64| u128::from(a) * u128::from(b);
        let both = of(fp32_gflops, self.memory_gbs) + of(memory_gbs, self.fp32_gflops);
        let permille = both.saturating_mul(500) / of(self.fp32_gflops, self.memory_gbs).max(1);
        u32::try_from(permille).map_or(MOST_PERMILLE, |permille| permille.min(MOST_PERMILLE))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_reference_device_is_at_1000_and_half_of_it_at_500() {
        let Reference {
            fp32_gflops,
            memory_gbs,
            ..
        } = REFERENCE;
        assert_eq!(REFERENCE.permille(fp32_gflops, memory_gbs), 1000);
        assert_eq!(REFERENCE.permille(fp32_gflops / 2, memory_gbs / 2), 499);
        assert_eq!(REFERENCE.permille(fp32_gflops, 0), 500);
        assert_eq!(REFERENCE.permille(0, memory_gbs), 500);
        assert_eq!(REFERENCE.permille(0, 0), 0);
    }

    #[test]
    fn known_devices_are_weighed_by_their_data_sheets() {
        for (device, fp32, memory, permille) in [
            ("NVIDIA H100 80GB HBM3", 66_900, 3_352, 2537),
            ("NVIDIA H200", 66_900, 4_917, 2921),
            ("NVIDIA L40S", 91_600, 864, 2560),
            ("Tesla T4", 8_141, 320, 287),
        ] {
            assert_eq!(REFERENCE.permille(fp32, memory), permille, "{device}");
        }
    }

    #[test]
    fn no_figure_is_worth_more_than_ten_references() {
        assert_eq!(REFERENCE.permille(u64::MAX, u64::MAX), MOST_PERMILLE);
        assert_eq!(REFERENCE.permille(400_000, 40_000), MOST_PERMILLE);
    }

    #[test]
    fn a_reference_is_found_by_its_name() {
        assert_eq!(Reference::named("performance/1"), Some(REFERENCE));
        assert_eq!(Reference::named("configured"), None);
    }

    proptest! {
        #[test]
        fn more_is_never_worth_less(fp32 in 0_u64..1 << 40, memory in 0_u64..1 << 40, more in 0_u64..1 << 20) {
            let before = REFERENCE.permille(fp32, memory);
            prop_assert!(REFERENCE.permille(fp32 + more, memory) >= before);
            prop_assert!(REFERENCE.permille(fp32, memory + more) >= before);
        }

        #[test]
        fn it_is_the_floor_of_the_mean_of_the_two_ratios(fp32 in 0_u64..200_000, memory in 0_u64..20_000) {
            // In lowest terms the mean is `both / twice`; 1000 times that, rounded down, without the shortcut of the code.
            let twice = 2 * u128::from(REFERENCE.fp32_gflops) * u128::from(REFERENCE.memory_gbs);
            let both = u128::from(fp32) * u128::from(REFERENCE.memory_gbs) + u128::from(memory) * u128::from(REFERENCE.fp32_gflops);
            let exact = u32::try_from(both * 1000 / twice).unwrap();
            prop_assert_eq!(REFERENCE.permille(fp32, memory), exact.min(MOST_PERMILLE));
        }
    }
}
