//! The order in which things are told: what was seen until some moment stands in the GpuNode's status before the heartbeat
//! of that moment is given. So whoever finds a heartbeat later than a failure knows that what the status does not bring, this
//! agent has not seen.
//!
//! ```text
//! heartbeat ──asks──► observer ──reported──► publisher ──told──► heartbeat
//! ```
//!
//! Each question has a number. The observer passes it on when it has looked once more; the publisher when all faults are in
//! the API server.

use tokio::sync::watch;

/// Says `now`, if that is news.
pub fn say<T: PartialEq>(sender: &watch::Sender<T>, now: T) {
    sender.send_if_modified(|known| {
        let new = *known != now;
        *known = now;
        new
    });
}

/// The heartbeat's side.
#[derive(Debug)]
pub struct Asking {
    asked: watch::Sender<u64>,
    told: watch::Receiver<u64>,
}

/// The observer's side.
#[derive(Debug)]
pub struct Reporting {
    /// The newest question.
    pub asked: watch::Receiver<u64>,
    /// The newest question that the wanted status answers.
    pub reported: watch::Sender<u64>,
}

/// The publisher's side.
#[derive(Debug)]
pub struct Telling {
    /// The newest question that the wanted status answers.
    pub reported: watch::Receiver<u64>,
    /// The newest question whose answer the API server has.
    pub told: watch::Sender<u64>,
}

/// The three sides.
#[must_use]
pub fn channel() -> (Asking, Reporting, Telling) {
    let (asked, asked_seen) = watch::channel(0);
    let (reported, reported_seen) = watch::channel(0);
    let (told, told_seen) = watch::channel(0);
    (
        Asking {
            asked,
            told: told_seen,
        },
        Reporting {
            asked: asked_seen,
            reported,
        },
        Telling {
            reported: reported_seen,
            told,
        },
    )
}

impl Asking {
    /// Waits until all that was seen before this call is told. Where nobody is left to tell, it returns at once.
    pub async fn all_is_told(&mut self) {
        let question = *self.asked.borrow() + 1;
        if self.asked.send(question).is_ok() {
            // An error means that the publisher has ended, and the agent with it.
            let _ = self.told.wait_for(|told| *told >= question).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_question_is_answered_when_it_went_through_both_hands() {
        let (mut asking, reporting, telling) = channel();
        let answered = async {
            asking.all_is_told().await;
            asking.all_is_told().await;
        };
        let passing = async {
            let mut asked = reporting.asked.clone();
            let mut reported = telling.reported.clone();
            for question in 1..=2 {
                asked.wait_for(|asked| *asked == question).await.unwrap();
                reporting.reported.send_replace(question);
                reported
                    .wait_for(|reported| *reported == question)
                    .await
                    .unwrap();
                telling.told.send_replace(question);
            }
        };
        tokio::join!(answered, passing);
    }

    #[tokio::test]
    async fn nobody_waits_for_those_that_have_ended() {
        let (mut asking, reporting, telling) = channel();
        drop((reporting, telling));
        asking.all_is_told().await;
    }
}
