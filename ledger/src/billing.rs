//! What of a lease is billed. A lease is one member of one attempt on one node; it is billed in slices. All times are in
//! Unix milliseconds.

use crate::amount::{AmountError, record_amount};

/// The kubelet tells whole seconds, rounded down.
const KUBELET_RESOLUTION_MS: u64 = 1000;
/// Ten-thousandths in one.
const BPS: u128 = 10_000;
/// A factor of one.
const PERMILLE: u128 = 1000;

/// A span of time, its end excluded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    /// Begin.
    pub from_ms: u64,
    /// End, never before the begin.
    pub to_ms: u64,
}

impl Span {
    /// A span; empty where `to_ms` is before `from_ms`.
    #[must_use]
    pub fn new(from_ms: u64, to_ms: u64) -> Self {
        Self {
            from_ms,
            to_ms: to_ms.max(from_ms),
        }
    }

    /// The part of it that is within `other`.
    #[must_use]
    pub fn within(self, other: Self) -> Self {
        Self::new(
            self.from_ms.clamp(other.from_ms, other.to_ms),
            self.to_ms.clamp(other.from_ms, other.to_ms),
        )
    }

    /// Its length.
    #[must_use]
    pub fn millis(self) -> u64 {
        self.to_ms - self.from_ms
    }
}

/// A device's share of its physical GPU: 1/7 for one slice of a MIG device, 1/replicas where time is shared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// Parts that are held.
    pub numerator: u32,
    /// Parts that there are.
    pub denominator: u32,
}

impl Share {
    /// The whole device.
    pub const WHOLE: Self = Self {
        numerator: 1,
        denominator: 1,
    };

    /// A share; `None` if it is 0 or more than the whole.
    #[must_use]
    pub fn new(numerator: u32, denominator: u32) -> Option<Self> {
        (numerator > 0 && numerator <= denominator).then_some(Self {
            numerator,
            denominator,
        })
    }

    /// `floor(millis × share)`.
    fn of(self, millis: u64) -> u64 {
        let part =
            u128::from(millis) * u128::from(self.numerator) / u128::from(self.denominator.max(1));
        u64::try_from(part).unwrap_or(u64::MAX)
    }
}

/// When the lease began: the evidence's millisecond, held within the second that the kubelet tells. Without evidence the
/// end of that second: doubt favours the payer. Without the kubelet's word, the evidence's.
#[must_use]
pub fn lease_start(kubelet_ms: Option<u64>, evidence_ms: Option<u64>) -> Option<u64> {
    match (kubelet_ms, evidence_ms) {
        (Some(second), Some(at)) => Some(at.clamp(second, last_of(second))),
        (Some(second), None) => Some(second + KUBELET_RESOLUTION_MS),
        (None, at) => at,
    }
}

/// When the lease ended: the evidence's millisecond, held within the second that the kubelet tells. Without evidence the
/// begin of that second: doubt favours the payer. Without the kubelet's word, the evidence's.
#[must_use]
pub fn lease_end(kubelet_ms: Option<u64>, evidence_ms: Option<u64>) -> Option<u64> {
    match (kubelet_ms, evidence_ms) {
        (Some(second), Some(at)) => Some(at.clamp(second, last_of(second))),
        (Some(second), None) => Some(second),
        (None, at) => at,
    }
}

fn last_of(second: u64) -> u64 {
    second + KUBELET_RESOLUTION_MS - 1
}

/// What a slice is billed, in GPU-milliseconds.
///
/// Per device it is `F(to) − F(from)` less the same for each gap, where `F(t) = floor((t − lease start) × share)`. So the
/// slices of a lease add up to what the lease as a whole is billed, to the millisecond, however it is cut.
/// `unbridged` are the gaps in the evidence that are not billed, those of other slices included; they must not overlap.
#[must_use]
pub fn gpu_millis(lease_start_ms: u64, slice: Span, unbridged: &[Span], shares: &[Share]) -> u64 {
    let billed = |share: Share, span: Span| {
        let until = |at: u64| share.of(at.saturating_sub(lease_start_ms));
        until(span.to_ms) - until(span.from_ms)
    };
    shares
        .iter()
        .map(|share| {
            let gaps: u64 = unbridged
                .iter()
                .map(|gap| billed(*share, gap.within(slice)))
                .sum();
            billed(*share, slice).saturating_sub(gaps)
        })
        .sum()
}

/// What an emission weighs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EmissionTerms {
    /// Nano-tokens for one GPU and one second at factors of 1000.
    pub nano_per_gpu_second: u128,
    /// Performance in thousandths.
    pub performance_permille: u32,
    /// Stability in thousandths.
    pub stability_permille: u32,
    /// The fee on what tenants pay, in ten-thousandths.
    pub fee_bps: u16,
}

/// What the reward account pays on top for a slice, in nano-tokens: `floor(gpuMillis × rate × performance × stability)`,
/// and never more than the fee on what the tenant pays for it: so nobody gains by paying himself.
///
/// `nano_per_gpu_second` is what the tenant pays.
pub fn emission(
    gpu_millis: u64,
    nano_per_gpu_second: u128,
    terms: EmissionTerms,
) -> Result<u64, AmountError> {
    let usage = record_amount(gpu_millis, nano_per_gpu_second)?;
    let cap = u128::from(usage) * u128::from(terms.fee_bps).min(BPS) / BPS;
    let earned = u128::from(gpu_millis)
        .checked_mul(terms.nano_per_gpu_second)
        .and_then(|n| n.checked_mul(terms.performance_permille.into()))
        .and_then(|n| n.checked_mul(terms.stability_permille.into()))
        .ok_or(AmountError::Overflow)?
        / (1000 * PERMILLE * PERMILLE);
    crate::amount::balance(earned.min(cap))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HOUR: u64 = 3_600_000;

    #[test]
    fn evidence_is_held_within_the_kubelets_seconds() {
        assert_eq!(lease_start(Some(5000), Some(5400)), Some(5400));
        assert_eq!(lease_start(Some(5000), Some(4000)), Some(5000));
        assert_eq!(lease_start(Some(5000), Some(7000)), Some(5999));
        assert_eq!(lease_end(Some(9000), Some(9999)), Some(9999));
        assert_eq!(lease_end(Some(9000), Some(60_000)), Some(9999));
    }

    #[test]
    fn without_evidence_doubt_favours_the_payer() {
        assert_eq!(lease_start(Some(5000), None), Some(6000));
        assert_eq!(lease_end(Some(9000), None), Some(9000));
        assert_eq!(lease_start(None, None), None);
    }

    #[test]
    fn a_lease_of_24_days_in_hours_adds_up_to_the_millisecond() {
        let (start, end) = (1_800_000_000_123, 1_800_000_000_123 + 24 * 24 * HOUR + 457);
        for share in [
            Share::WHOLE,
            Share::new(1, 7).unwrap(),
            Share::new(3, 10).unwrap(),
        ] {
            let mut sum = 0;
            let mut from = start;
            while from < end {
                let to = (from + HOUR).min(end);
                sum += gpu_millis(start, Span::new(from, to), &[], &[share; 8]);
                from = to;
            }
            assert_eq!(sum, 8 * share.of(end - start), "{share:?}");
        }
    }

    #[test]
    fn a_gap_that_is_not_bridged_is_not_billed() {
        let gap = Span::new(2_000, 5_000);
        let whole = Span::new(0, 10_000);
        assert_eq!(gpu_millis(0, whole, &[gap], &[Share::WHOLE; 2]), 14_000);
        assert_eq!(gpu_millis(0, gap, &[gap], &[Share::WHOLE]), 0);
    }

    #[test]
    fn half_the_performance_earns_half() {
        let terms = EmissionTerms {
            nano_per_gpu_second: 1_000,
            performance_permille: 1000,
            stability_permille: 1000,
            fee_bps: 500,
        };
        let half = EmissionTerms {
            performance_permille: 500,
            ..terms
        };
        assert_eq!(emission(60_000, 1_000_000, terms), Ok(60_000));
        assert_eq!(emission(60_000, 1_000_000, half), Ok(30_000));
    }

    proptest! {
        #[test]
        fn however_a_lease_is_cut_its_slices_add_up(
            start in 0_u64..1 << 40, cuts in prop::collection::vec(1_u64..100_000_000, 1..40),
            gaps in prop::collection::vec((1_u64..1_000_000, 1_u64..1_000_000), 0..6), numerator in 1_u32..8, more in 0_u32..8,
        ) {
            let share = Share::new(numerator, numerator + more).unwrap();
            let mut at = start;
            let gaps: Vec<_> = gaps.into_iter().map(|(pause, length)| { let from = at + pause; at = from + length; Span::new(from, at) }).collect();
            let mut from = start;
            let slices: Vec<_> = cuts.into_iter().map(|length| { let slice = Span::new(from, from + length); from += length; slice }).collect();
            let sum: u64 = slices.iter().map(|slice| gpu_millis(start, *slice, &gaps, &[share])).sum();
            prop_assert_eq!(sum, gpu_millis(start, Span::new(start, from), &gaps, &[share]));
        }

        #[test]
        fn a_physical_gpu_is_never_billed_more_than_the_time_that_passed(
            start in 0_u64..1 << 40, length in 0_u64..10_000_000_000, parts in prop::collection::vec(1_u32..4, 1..8),
        ) {
            let all: u32 = parts.iter().sum();
            let billed: u64 = parts.iter().map(|part| gpu_millis(start, Span::new(start, start + length), &[], &[Share::new(*part, all).unwrap()])).sum();
            prop_assert!(billed <= length);
        }

        #[test]
        fn who_pays_himself_never_gains(
            gpu_millis in 0_u64..1 << 40, price in 0_u128..1 << 30, rate in 0_u128..1 << 40,
            performance in 0_u32..100_000, stability in 0_u32..=1000, fee_bps in 0_u16..=1000,
        ) {
            let terms = EmissionTerms { nano_per_gpu_second: rate, performance_permille: performance, stability_permille: stability, fee_bps };
            let paid = record_amount(gpu_millis, price).unwrap();
            let fee = u128::from(paid) * u128::from(fee_bps) / 10_000;
            prop_assert!(u128::from(emission(gpu_millis, price, terms).unwrap()) <= fee);
        }
    }
}
