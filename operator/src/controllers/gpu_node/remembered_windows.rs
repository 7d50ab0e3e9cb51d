//! Where the windows of nodes stand. To find that out costs far more than everything else that is asked about a node, and it is
//! asked in every pass and placement, so the answers are kept until they change.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use gridstake_crds::gpu_node::OfferWindow;
use k8s_openapi::jiff::Timestamp;

use super::offer_windows::{self, Standing, WindowFault};

/// How many answers are kept; then they are found anew.
const KEPT: usize = 1 << 14;

/// An answer, and to what.
#[derive(Clone, Debug)]
struct Answer {
    windows: Vec<OfferWindow>,
    asked_at: Timestamp,
    standing: Result<Standing, WindowFault>,
}

impl Answer {
    fn holds(&self, windows: &[OfferWindow], now: Timestamp) -> bool {
        let not_changed = match &self.standing {
            Ok(standing) => (self.asked_at..standing.changes_at).contains(&now),
            Err(_) => true,
        };
        not_changed && self.windows == windows
    }
}

/// The answers of late. Cloning shares them.
#[derive(Clone, Debug, Default)]
pub struct RememberedWindows(Arc<Mutex<HashMap<String, Answer>>>);

impl RememberedWindows {
    /// Where the `windows` of the GpuNode `name` stand at `now`.
    ///
    /// # Errors
    /// When one of them cannot be read.
    pub fn standing(
        &self,
        name: &str,
        windows: &[OfferWindow],
        now: Timestamp,
    ) -> Result<Standing, WindowFault> {
        let mut answers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(answer) = answers
            .get(name)
            .filter(|answer| answer.holds(windows, now))
        {
            return answer.standing.clone();
        }
        if answers.len() >= KEPT {
            answers.clear();
        }
        let standing = offer_windows::standing(windows, now);
        let answer = Answer {
            windows: windows.to_vec(),
            asked_at: now,
            standing: standing.clone(),
        };
        answers.insert(name.to_owned(), answer);
        standing
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_answer_counts_until_the_windows_or_their_standing_change() {
        let at = |text: &str| -> Timestamp { text.parse().unwrap() };
        let window = |hour: u32| -> Vec<OfferWindow> {
            serde_json::from_value(json!([{"cron": format!("0 {hour} * * *"), "duration": "1h"}]))
                .unwrap()
        };
        let remembered = RememberedWindows::default();
        let is_open = |windows: &[OfferWindow], now: &str| {
            remembered.standing("n1", windows, at(now)).unwrap().is_open
        };
        for now in ["2026-06-05T20:00:00Z", "2026-06-05T20:59:59Z"] {
            assert!(is_open(&window(20), now));
        }
        assert!(!is_open(&window(20), "2026-06-05T21:00:00Z"));
        assert!(is_open(&window(21), "2026-06-05T21:00:00Z"));
        // A clock that is set back.
        assert!(!is_open(&window(21), "2026-06-05T20:00:00Z"));
    }
}
