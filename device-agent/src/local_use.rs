//! Use of the node's GPUs by others than Gridstake's jobs, for nodes that are offered while they are idle. Pure.
//!
//! What is told leaves it to the operator what counts as idle: since when the GPUs have been watched without a gap; when a pod of
//! others held one or a process of others computed on one; and the peaks of the utilisation of those that no job holds, each with
//! the time after which none was as high. So neither a threshold nor a window is known here, and nothing is told anew while
//! nothing happens.
//!
//! The kubelet names a pod's devices a moment after its processes show up, and no longer names them a moment before these are
//! gone. What looks like use by others therefore counts only if no job turns out to hold the GPU within [`SETTLE_MS`], before or
//! after. A process outside of pods is nobody's job and counts at once.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use serde::Serialize;

use crate::{
    attribution::Attribution,
    clock::{Anchor, BootMillis},
    nvml::inventory::Device,
    process::pod_names::PodName,
};

/// How long it may take until it is known whether a job holds a GPU, in milliseconds.
pub const SETTLE_MS: u64 = 5_000;

/// Between two samples that are further apart, in milliseconds, nobody watched.
const LONGEST_GAP_MS: u64 = 30_000;

/// A wall clock that was set by more than this, in milliseconds, is followed.
const CLOCK_WAS_SET_MS: u64 = 1_000;

/// The pods of jobs on this node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tenants {
    /// By namespace and name.
    pub pods: BTreeSet<PodName>,
    /// Their UIDs, as far as known.
    pub uids: BTreeSet<String>,
}

/// Who is on one GPU at a moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GpuSight {
    /// The GPU's UUID.
    pub gpu: String,
    /// A job's pod was given it, or a part of it.
    pub is_a_jobs: bool,
    /// A pod of others was given it, or a pod that is no job's computes on it.
    pub others_are_on_it: bool,
    /// A process outside of pods computes on it.
    pub host_computes: bool,
    /// How much it is utilised, where it tells.
    pub percent: u8,
}

/// Who is on each of `devices`. One that shows nothing is left out.
#[must_use]
pub fn sights<'a>(
    devices: impl IntoIterator<Item = &'a Device>,
    attribution: &Attribution,
    tenants: &Tenants,
) -> Vec<GpuSight> {
    let sight = |device: &Device| {
        let running = device.sample.processes.as_ref()?;
        let uses = attribution.get(&device.facts.uuid);
        let is_a_jobs = |namespace: &str, pod: &str| {
            let name = (namespace.to_owned(), pod.to_owned());
            tenants.pods.contains(&name)
        };
        let mut sight = GpuSight {
            gpu: device.facts.uuid.clone(),
            percent: device
                .sample
                .utilization_percent
                .map_or(0, |percent| u8::try_from(percent.min(100)).unwrap_or(100)),
            ..GpuSight::default()
        };
        for holder in uses.into_iter().flat_map(|uses| &uses.holders) {
            if is_a_jobs(&holder.namespace, &holder.pod) {
                sight.is_a_jobs = true;
            } else {
                sight.others_are_on_it = true;
            }
        }
        for user in uses.into_iter().flat_map(|uses| &uses.users) {
            // Display servers and the like hold a context as long as the node is up; whether they work, utilisation tells.
            let computes = running
                .iter()
                .any(|process| process.pid == user.pid && process.computes);
            match &user.pod_uid {
                Some(uid) => sight.others_are_on_it |= computes && !tenants.uids.contains(uid),
                // One that is gone again is nobody's.
                None => sight.host_computes |= computes && user.start_ticks.is_some(),
            }
        }
        Some(sight)
    };
    devices.into_iter().filter_map(sight).collect()
}

/// What is told in the heartbeat. All times are Unix milliseconds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Told {
    since_ms: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    held_ms: Option<u64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    peaks: Vec<(u64, u8)>,
}

/// What looked like use by others and is not sure yet.
#[derive(Clone, Copy, Debug)]
struct Doubt {
    at: BootMillis,
    is_held: bool,
    percent: u8,
}

#[derive(Debug, Default)]
struct Gpu {
    /// When a job was last seen to hold it.
    job_at: Option<BootMillis>,
    doubts: VecDeque<Doubt>,
}

/// Use by others, as far as it was seen.
#[derive(Debug, Default)]
pub struct LocalUse {
    watched: Option<Watched>,
    held_at: Option<BootMillis>,
    /// Falling percentages at rising times.
    peaks: Vec<(BootMillis, u8)>,
    gpus: BTreeMap<String, Gpu>,
    anchor: Option<Anchor>,
}

#[derive(Clone, Copy, Debug)]
struct Watched {
    since: BootMillis,
    until: BootMillis,
}

impl LocalUse {
    /// Takes in what was seen at `at`.
    pub fn observe(&mut self, at: BootMillis, sights: &[GpuSight]) {
        let goes_on = self
            .watched
            .filter(|watched| at.since(watched.until) <= LONGEST_GAP_MS);
        if goes_on.is_none() {
            self.held_at = None;
            self.peaks.clear();
            self.gpus.clear();
        }
        self.watched = Some(Watched {
            since: goes_on.map_or(at, |watched| watched.since),
            until: at,
        });
        for sight in sights {
            self.look_at(at, sight);
        }
    }

    fn look_at(&mut self, at: BootMillis, sight: &GpuSight) {
        let gpu = self.gpus.entry(sight.gpu.clone()).or_default();
        if sight.is_a_jobs {
            gpu.job_at = Some(at);
            gpu.doubts.clear();
        } else if gpu.job_at.is_none_or(|job| at.since(job) > SETTLE_MS) {
            gpu.doubts.push_back(Doubt {
                at,
                is_held: sight.others_are_on_it,
                percent: sight.percent,
            });
        }
        let mut sure = Vec::new();
        while let Some(doubt) = gpu
            .doubts
            .pop_front_if(|doubt| at.since(doubt.at) >= SETTLE_MS)
        {
            sure.push(doubt);
        }
        if sight.host_computes {
            self.held_at = self.held_at.max(Some(at));
        }
        for doubt in sure {
            if doubt.is_held {
                self.held_at = self.held_at.max(Some(doubt.at));
            }
            self.peak(doubt.at, doubt.percent);
        }
    }

    /// A GPU that no job holds was utilised so much.
    fn peak(&mut self, at: BootMillis, percent: u8) {
        let is_topped = |(then, peak): &(BootMillis, u8)| *then >= at && *peak >= percent;
        if percent == 0 || self.peaks.iter().any(is_topped) {
            return;
        }
        self.peaks
            .retain(|(then, peak)| *then > at || *peak > percent);
        self.peaks.push((at, percent));
        self.peaks.sort_unstable_by_key(|(at, _)| *at);
    }

    /// What is to be told, while the wall clock stands as `now` says; `None`: nothing was seen yet.
    pub fn told(&mut self, now: Anchor) -> Option<Told> {
        let watched = self.watched?;
        let at_boot = |anchor: Anchor| anchor.unix_ms(BootMillis(0));
        // The same moment is told alike each time, unless the clock was set.
        let anchor = self
            .anchor
            .filter(|anchor| at_boot(*anchor).abs_diff(at_boot(now)) <= CLOCK_WAS_SET_MS)
            .unwrap_or(now);
        self.anchor = Some(anchor);
        Some(Told {
            since_ms: anchor.unix_ms(watched.since),
            held_ms: self.held_at.map(|at| anchor.unix_ms(at)),
            peaks: self
                .peaks
                .iter()
                .map(|(at, percent)| (anchor.unix_ms(*at), *percent))
                .collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ANCHOR: u64 = 1_800_000_000_000;

    fn anchor() -> Anchor {
        Anchor::at(ANCHOR, BootMillis(0))
    }

    fn idle(gpu: &str) -> GpuSight {
        GpuSight {
            gpu: gpu.to_owned(),
            ..GpuSight::default()
        }
    }

    fn busy(percent: u8) -> GpuSight {
        GpuSight {
            percent,
            ..idle("g")
        }
    }

    fn a_jobs() -> GpuSight {
        GpuSight {
            is_a_jobs: true,
            ..busy(100)
        }
    }

    fn others() -> GpuSight {
        GpuSight {
            others_are_on_it: true,
            ..busy(100)
        }
    }

    /// Sees each of these, one a second from second 1 on; tells since when, held when, and the peaks, in seconds.
    fn seen(sights: &[GpuSight]) -> (u64, Option<u64>, Vec<(u64, u8)>) {
        let mut local = LocalUse::default();
        for (second, sight) in (1..).zip(sights) {
            local.observe(BootMillis(second * 1000), std::slice::from_ref(sight));
        }
        let told = local.told(anchor()).unwrap();
        let second = |ms: u64| (ms - ANCHOR) / 1000;
        (
            second(told.since_ms),
            told.held_ms.map(second),
            told.peaks
                .iter()
                .map(|(at, peak)| (second(*at), *peak))
                .collect(),
        )
    }

    fn then<const N: usize>(parts: [(usize, GpuSight); N]) -> Vec<GpuSight> {
        parts
            .into_iter()
            .flat_map(|(times, sight)| vec![sight; times])
            .collect()
    }

    #[test]
    fn an_idle_gpu_is_idle_since_it_was_watched() {
        assert_eq!(seen(&then([(60, idle("g"))])), (1, None, vec![]));
    }

    #[test]
    fn of_a_use_its_last_moment_and_how_much_it_was_are_told() {
        let used = then([
            (10, idle("g")),
            (10, busy(90)),
            (10, busy(7)),
            (30, idle("g")),
        ]);
        assert_eq!(seen(&used), (1, None, vec![(20, 90), (30, 7)]));
        let held = then([(10, idle("g")), (10, others()), (30, idle("g"))]);
        assert_eq!(seen(&held), (1, Some(20), vec![(20, 100)]));
    }

    #[test]
    fn what_jobs_do_is_no_use_by_others_also_while_the_kubelet_has_not_named_or_no_longer_names_their_gpus()
     {
        let nothing = (1, None, vec![]);
        let job = then([
            (9, idle("g")),
            (4, others()),
            (50, a_jobs()),
            (5, others()),
            (30, idle("g")),
        ]);
        assert_eq!(seen(&job), nothing);
        let unnamed = then([
            (9, idle("g")),
            (4, busy(100)),
            (50, a_jobs()),
            (5, busy(100)),
            (30, idle("g")),
        ]);
        assert_eq!(seen(&unnamed), nothing);
        // Others who come right after a job are seen all the same.
        let after = then([(9, a_jobs()), (20, others()), (9, idle("g"))]);
        assert_eq!(seen(&after).1, Some(29));
    }

    #[test]
    fn a_process_outside_of_pods_counts_at_once_also_on_a_gpu_that_a_job_holds() {
        let beside = GpuSight {
            host_computes: true,
            ..a_jobs()
        };
        assert_eq!(seen(&then([(5, a_jobs()), (1, beside)])).1, Some(6));
    }

    #[test]
    fn after_a_gap_the_gpus_have_to_be_watched_anew() {
        let mut local = LocalUse::default();
        local.observe(BootMillis(1_000), &[busy(80)]);
        local.observe(BootMillis(31_000), &[busy(80)]);
        assert_eq!(local.told(anchor()).unwrap().since_ms, ANCHOR + 1_000);
        local.observe(BootMillis(61_001), &[idle("g")]);
        let told = local.told(anchor()).unwrap();
        assert_eq!(
            (told.since_ms, told.held_ms, told.peaks),
            (ANCHOR + 61_001, None, vec![])
        );
    }

    #[test]
    fn nothing_is_told_anew_while_nothing_happens_though_clocks_drift() {
        let mut local = LocalUse::default();
        assert_eq!(local.told(anchor()), None);
        local.observe(BootMillis(1_000), &[idle("g")]);
        let told = local.told(anchor());
        local.observe(BootMillis(2_000), &[idle("g")]);
        assert_eq!(local.told(Anchor::at(ANCHOR + 900, BootMillis(0))), told);
        let set = local
            .told(Anchor::at(ANCHOR + 5_000, BootMillis(0)))
            .unwrap();
        assert_eq!(set.since_ms, ANCHOR + 6_000);
    }

    #[test]
    fn it_is_told_as_the_operator_reads_it() {
        let told = Told {
            since_ms: 5,
            held_ms: Some(7),
            peaks: vec![(6, 90)],
        };
        assert_eq!(
            serde_json::to_string(&told).unwrap(),
            r#"{"sinceMs":5,"heldMs":7,"peaks":[[6,90]]}"#
        );
    }

    proptest! {
        #[test]
        fn for_every_threshold_the_peaks_tell_the_last_time_above_it(
            percents in prop::collection::vec(0_u8..=100, 1..60), threshold in 0_u8..100,
        ) {
            let (_, _, peaks) = seen(&percents.iter().map(|percent| busy(*percent)).collect::<Vec<_>>());
            let told = peaks.iter().filter(|(_, peak)| *peak > threshold).map(|(at, _)| *at).max();
            let settled = percents.len().saturating_sub(usize::try_from(SETTLE_MS / 1000).unwrap());
            let last = (1..).zip(&percents[..settled]).filter(|(_, percent)| **percent > threshold).map(|(at, _)| at).max();
            prop_assert_eq!(told, last);
            prop_assert!(peaks.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 > pair[1].1));
        }
    }
}
