//! Liveness and readiness: what the kubelet is told.
//!
//! *Live* means that nothing is wedged. *Ready* means that the CustomResourceDefinitions are there and the caches are
//! filled; a standby replica is ready. What is pending never counts against liveness: a restart would not help.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// A watch that has yielded only errors for longer than this is taken for wedged.
pub const WATCH_PATIENCE: Duration = Duration::from_mins(5);
/// Two errors further apart than this do not belong together: a watch that recovers yields nothing while its kind is
/// quiet. A failing one retries every 30 s, plus 30 s for a connection attempt, plus jitter.
const ERRORS_BELONG_TOGETHER: Duration = Duration::from_mins(2);
/// A pass of a main loop that takes longer than this is taken for stuck.
pub const LOOP_PATIENCE: Duration = Duration::from_mins(5);

/// Shared record of what is pending, failing or busy.
#[derive(Clone, Debug, Default)]
pub struct Health(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    pending: BTreeSet<String>,
    failing: BTreeMap<&'static str, ErrorSpell>,
    busy: BTreeMap<&'static str, Instant>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct ErrorSpell {
    since: Instant,
    last: Instant,
}

/// While this lives, a main loop is at work on one pass.
#[derive(Debug)]
pub struct LoopPass {
    health: Health,
    name: &'static str,
}

impl Drop for LoopPass {
    fn drop(&mut self) {
        self.health.state().busy.remove(self.name);
    }
}

impl Health {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes `/readyz` fail and list `what` until it is [`done`](Self::done).
    pub fn pending(&self, what: impl Into<String>) {
        self.state().pending.insert(what.into());
    }

    /// `what` is no longer pending.
    pub fn done(&self, what: &str) {
        self.state().pending.remove(what);
    }

    /// What readiness waits for, in alphabetical order.
    #[must_use]
    pub fn not_ready(&self) -> Vec<String> {
        self.state().pending.iter().cloned().collect()
    }

    /// The watch on `kind` yielded an error at `now`.
    pub fn watch_failed(&self, kind: &'static str, now: Instant) {
        self.state()
            .failing
            .entry(kind)
            .and_modify(|spell| {
                if now.duration_since(spell.last) > ERRORS_BELONG_TOGETHER {
                    spell.since = now;
                }
                spell.last = now;
            })
            .or_insert(ErrorSpell {
                since: now,
                last: now,
            });
    }

    /// The watch on `kind` yielded something else than an error.
    pub fn watch_succeeded(&self, kind: &'static str) {
        self.state().failing.remove(kind);
    }

    /// Marks one pass of the main loop `name`. If it does not end within [`LOOP_PATIENCE`], `/livez` fails.
    #[must_use = "the pass ends when this is dropped"]
    pub fn pass(&self, name: &'static str, now: Instant) -> LoopPass {
        self.state().busy.insert(name, now);
        LoopPass {
            health: self.clone(),
            name,
        }
    }

    /// What is wedged at `now`; nothing when all is well.
    #[must_use]
    pub fn not_live(&self, now: Instant) -> Vec<String> {
        let state = self.state();
        let watches = state
            .failing
            .iter()
            .filter(|(_, spell)| {
                now.duration_since(spell.since) > WATCH_PATIENCE
                    && now.duration_since(spell.last) <= ERRORS_BELONG_TOGETHER
            })
            .map(|(kind, _)| format!("the watch on {kind} yields only errors"));
        let loops = state
            .busy
            .iter()
            .filter(|(_, since)| now.duration_since(**since) > LOOP_PATIENCE)
            .map(|(name, _)| format!("{name} is stuck"));
        watches.chain(loops).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn readiness_lists_what_is_pending() {
        let health = Health::default();
        health.pending("cache of Pods");
        health.pending("CRD gpunodes.gridstake.dev");
        assert_eq!(
            health.not_ready(),
            ["CRD gpunodes.gridstake.dev", "cache of Pods"]
        );
        health.done("cache of Pods");
        health.done("CRD gpunodes.gridstake.dev");
        assert!(health.not_ready().is_empty());
    }

    #[test]
    fn a_watch_that_yields_only_errors_for_five_minutes_is_wedged() {
        let (health, start) = (Health::default(), Instant::now());
        for second in (0..=330).step_by(30) {
            health.watch_failed("Pod", start + secs(second));
        }
        assert!(health.not_live(start + secs(300)).is_empty());
        assert_eq!(
            health.not_live(start + secs(331)),
            ["the watch on Pod yields only errors"]
        );
        health.watch_succeeded("Pod");
        assert!(health.not_live(start + secs(331)).is_empty());
    }

    #[test]
    fn single_errors_of_a_quiet_watch_do_not_add_up() {
        let (health, start) = (Health::default(), Instant::now());
        for second in (0..=1500).step_by(290) {
            health.watch_failed("PriorityClass", start + secs(second));
            assert!(health.not_live(start + secs(second)).is_empty());
        }
    }

    #[test]
    fn an_error_long_ago_is_forgotten() {
        let (health, start) = (Health::default(), Instant::now());
        health.watch_failed("Pod", start);
        assert!(health.not_live(start + secs(3600)).is_empty());
    }

    #[test]
    fn a_loop_is_stuck_only_while_a_pass_runs_too_long() {
        let (health, start) = (Health::default(), Instant::now());
        let pass = health.pass("placement", start);
        assert!(health.not_live(start + secs(299)).is_empty());
        assert_eq!(health.not_live(start + secs(301)), ["placement is stuck"]);
        drop(pass);
        assert!(health.not_live(start + secs(301)).is_empty());
    }
}
