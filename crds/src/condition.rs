//! Conditions: how a writer states a fact about an object, and the reasons it may give.

use k8s_openapi::{
    apimachinery::pkg::apis::meta::v1::{Condition, Time},
    jiff::Timestamp,
};

use crate::closed_enum::ClosedEnum;

/// A condition's status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// It holds.
    True,
    /// It does not hold.
    False,
    /// It is not known yet, or not any more.
    Unknown,
}

impl Status {
    /// The spelling in the API.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::True => "True",
            Self::False => "False",
            Self::Unknown => "Unknown",
        }
    }
}

impl From<bool> for Status {
    fn from(holds: bool) -> Self {
        if holds { Self::True } else { Self::False }
    }
}

/// A fact to be stated: which condition, whether it holds, why, and the words for people.
///
/// The message must not hold times, counters or request ids: it would make every pass a write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fact {
    /// The condition's type, such as `Scheduled`.
    pub condition: &'static str,
    /// Whether it holds.
    pub status: Status,
    /// The reason, from the closed list of that condition.
    pub reason: &'static str,
    /// What a person should read.
    pub message: String,
}

impl Fact {
    /// A fact about `condition` with a documented reason.
    pub fn new(
        condition: impl ClosedEnum,
        status: impl Into<Status>,
        reason: impl ClosedEnum,
        message: impl Into<String>,
    ) -> Self {
        Self {
            condition: condition.as_str(),
            status: status.into(),
            reason: reason.as_str(),
            message: message.into(),
        }
    }

    /// Whether `conditions` holds this fact already, whenever it was written.
    #[must_use]
    pub fn is_stated_in(&self, conditions: &[Condition]) -> bool {
        conditions.iter().any(|c| {
            c.type_ == self.condition
                && c.status == self.status.as_str()
                && c.reason == self.reason
                && c.message == self.message
        })
    }
}

/// The conditions that `facts` amount to, where `before` is what the object says now.
///
/// `lastTransitionTime` moves only when a condition's status flips. Conditions of other writers in `before` are left
/// out: each writer applies its own under its own field manager.
#[must_use]
pub fn conditions(
    before: &[Condition],
    facts: &[Fact],
    generation: Option<i64>,
    now: Timestamp,
) -> Vec<Condition> {
    facts
        .iter()
        .map(|fact| {
            let since = before
                .iter()
                .find(|c| c.type_ == fact.condition && c.status == fact.status.as_str())
                .map_or(Time(now), |c| c.last_transition_time.clone());
            Condition {
                type_: fact.condition.to_owned(),
                status: fact.status.as_str().to_owned(),
                reason: fact.reason.to_owned(),
                message: fact.message.clone(),
                last_transition_time: since,
                observed_generation: generation,
            }
        })
        .collect()
}

/// The condition of type `condition`, if it is stated.
#[must_use]
pub fn find(conditions: &[Condition], condition: impl ClosedEnum) -> Option<&Condition> {
    conditions.iter().find(|c| c.type_ == condition.as_str())
}

/// Whether `fact` is stated already, about this generation: then writing it would change nothing.
#[must_use]
pub fn is_stated(conditions: &[Condition], fact: &Fact, generation: Option<i64>) -> bool {
    conditions.iter().any(|c| {
        c.type_ == fact.condition
            && c.status == fact.status.as_str()
            && c.reason == fact.reason
            && c.message == fact.message
            && c.observed_generation == generation
    })
}

/// Whether the condition of type `condition` is stated and `True`.
#[must_use]
pub fn is_true(conditions: &[Condition], condition: impl ClosedEnum) -> bool {
    find(conditions, condition).is_some_and(|c| c.status == "True")
}
