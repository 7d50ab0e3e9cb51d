//! Keeps the kubelet's answer fresh: asks when the set of processes changes and every [`ASK_EVERY`], and lets an answer
//! that cannot be renewed go after [`KEEP_FOR`].

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;

use crate::{
    outcome::Outcomes,
    pod_resources::{Assignment, Error, PodResources, Replicas},
};

/// Time between two questions while nothing happens.
const ASK_EVERY: Duration = Duration::from_secs(5);

/// Processes may come and go faster than the kubelet wants to be asked (it refuses more than 100 questions a second
/// from all of its clients).
const ASK_AT_MOST_EVERY: Duration = Duration::from_secs(1);

/// How the device plugin divides GPUs changes only when it is configured anew.
const REPLICAS_EVERY: Duration = Duration::from_mins(1);

/// How long an answer counts while the kubelet is silent, as it is while it restarts.
const KEEP_FOR: Duration = Duration::from_mins(1);

/// What the kubelet says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct KubeletAnswer {
    /// Who holds which device; `None` when the kubelet has not answered for too long.
    pub assignments: Option<Arc<Vec<Assignment>>>,
    /// How GPUs are divided. A GPU that a restarting device plugin does not advertise keeps its last number.
    pub replicas: Replicas,
}

/// Asks until `stop`. `changed` is notified when processes came or went.
pub async fn follow(
    mut kubelet: PodResources,
    answer: watch::Sender<KubeletAnswer>,
    changed: Arc<Notify>,
    mut outcomes: Outcomes,
    stop: CancellationToken,
) {
    let mut answered_at = Instant::now();
    let mut replicas_at = Instant::now();
    loop {
        let asked_at = Instant::now();
        match ask(&mut kubelet, asked_at >= replicas_at).await {
            Ok((assignments, replicas)) => {
                outcomes.success();
                answered_at = asked_at;
                if replicas.is_some() {
                    replicas_at = asked_at + REPLICAS_EVERY;
                }
                answer.send_if_modified(|answer| answer.take(assignments, replicas));
            }
            Err(error) => {
                outcomes.failure(&error);
                if answered_at.elapsed() > KEEP_FOR {
                    answer.send_if_modified(|answer| answer.assignments.take().is_some());
                }
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = sleep(ASK_EVERY) => {}
            () = changed.notified() => sleep_until(asked_at + ASK_AT_MOST_EVERY).await,
        }
    }
}

async fn ask(
    kubelet: &mut PodResources,
    with_replicas: bool,
) -> Result<(Vec<Assignment>, Option<Replicas>), Error> {
    let assignments = kubelet.assignments().await?;
    let replicas = if with_replicas {
        Some(kubelet.replicas().await?)
    } else {
        None
    };
    Ok((assignments, replicas))
}

impl KubeletAnswer {
    /// Takes a new answer over; true when it says something new.
    fn take(&mut self, assignments: Vec<Assignment>, replicas: Option<Replicas>) -> bool {
        let mut new = false;
        if self.assignments.as_deref() != Some(&assignments) {
            self.assignments = Some(Arc::new(assignments));
            new = true;
        }
        for (uuid, count) in replicas.unwrap_or_default() {
            new |= self.replicas.insert(uuid, count) != Some(count);
        }
        new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_that_says_nothing_new_wakes_nobody() {
        let mut answer = KubeletAnswer::default();
        let replicas = Replicas::from([("GPU-a".to_owned(), 4)]);
        assert!(
            answer.take(Vec::new(), Some(replicas.clone())),
            "the kubelet has answered"
        );
        assert!(!answer.take(Vec::new(), Some(replicas)));
        assert!(!answer.take(Vec::new(), None));
    }

    #[test]
    fn a_gpu_keeps_its_division_while_its_plugin_restarts() {
        let mut answer = KubeletAnswer::default();
        answer.take(Vec::new(), Some(Replicas::from([("GPU-a".to_owned(), 4)])));
        assert!(!answer.take(Vec::new(), Some(Replicas::new())));
        assert_eq!(answer.replicas["GPU-a"], 4);
        assert!(answer.take(Vec::new(), Some(Replicas::from([("GPU-a".to_owned(), 1)]))));
    }
}
