//! How soon a node is given up, and what counts as an amnesty.

use k8s_openapi::jiff::{SignedDuration, Timestamp};

/// How soon a node is given up, and what counts as an amnesty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// An agent that was not heard of for so long is silent. Three heartbeats of 10 s by default.
    pub silent_after: SignedDuration,
    /// For how long a suspect node may still come back before it is lost.
    pub grace: SignedDuration,
    /// When more than this share of the nodes, in percent, fall silent together, there is an amnesty.
    pub amnesty_percent: u8,
    /// An amnesty lasts at most so long after the nodes fell silent: then those that have not come back are lost.
    pub amnesty_longest: SignedDuration,
}

impl Default for Terms {
    fn default() -> Self {
        Self {
            silent_after: SignedDuration::from_secs(30),
            grace: SignedDuration::from_secs(30),
            amnesty_percent: 50,
            amnesty_longest: SignedDuration::from_mins(15),
        }
    }
}

impl Terms {
    /// Whether an agent that was last heard of at `heartbeat` is silent at `now`. One that was never heard of is.
    #[must_use]
    pub fn is_silent(&self, heartbeat: Option<Timestamp>, now: Timestamp) -> bool {
        heartbeat.is_none_or(|last| now.duration_since(last) >= self.silent_after)
    }
}
