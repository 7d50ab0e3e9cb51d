//! What is measured on one device of a lease. Pure.

use gridstake_crds::usage_record::{Counters, DeviceUse, Evidence};
use serde::{Deserialize, Serialize};

use super::{
    chain,
    integrals::{Increment, Integrals},
    share::Part,
};
use crate::clock::BootMillis;

/// A device of a lease.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Metered {
    /// What was given.
    pub part: Part,
    /// Since the last statement.
    pub span: Integrals,
    /// In all statements of the slice.
    pub stated: Integrals,
    #[serde(skip)]
    last: Option<LastReading>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct LastReading {
    at: BootMillis,
    energy_millijoules: Option<u64>,
}

/// One GPU at this moment, in the words of metering.
#[derive(Debug)]
pub struct Reading<'a> {
    /// Its UUID.
    pub gpu: &'a str,
    /// When.
    pub at: BootMillis,
    /// Utilisation of the whole GPU.
    pub percent: Option<u32>,
    /// Memory in use on the whole GPU.
    pub memory_bytes: Option<u64>,
    /// Energy of the whole GPU since its driver was loaded.
    pub energy_millijoules: Option<u64>,
    /// Its processes; `None` if they could not be listed.
    pub users: Option<Vec<User<'a>>>,
    /// The weights of all parts of it that were given out.
    pub held: u64,
    /// The UIDs of the pods that hold a part; `None` while they are not all known.
    pub holders: Option<Vec<&'a str>>,
}

/// A process on a GPU.
#[derive(Clone, Copy, Debug)]
pub struct User<'a> {
    /// Its pod's UID; `None` for a process of the host.
    pub pod_uid: Option<&'a str>,
    /// Memory of the GPU that it holds.
    pub memory_bytes: Option<u64>,
}

impl Metered {
    /// A device of which nothing was measured yet.
    #[must_use]
    pub fn new(part: &Part) -> Self {
        Self {
            part: part.clone(),
            span: Integrals::default(),
            stated: Integrals::default(),
            last: None,
        }
    }

    /// Adds a reading for the pod `uid`; how many foreign processes it shows.
    pub fn measure(&mut self, reading: &Reading<'_>, uid: &str, longest: u64) -> Option<u32> {
        let before = self.last;
        self.last = Some(LastReading {
            at: reading.at,
            // A call that failed costs no energy: the next one that does not tells of all since.
            energy_millijoules: reading
                .energy_millijoules
                .or_else(|| before?.energy_millijoules),
        });
        let millis = before.map_or(0, |before| reading.at.since(before.at));
        let own = reading.users.as_ref().map(|users| {
            let own = users.iter().filter(|user| user.pod_uid == Some(uid));
            let memory = own
                .clone()
                .map(|user| user.memory_bytes)
                .sum::<Option<u64>>();
            (u32::try_from(own.count()).unwrap_or(u32::MAX), memory)
        });
        let energy = before
            .and_then(|before| before.energy_millijoules)
            .zip(reading.energy_millijoules)
            // A driver that was loaded anew counts from 0.
            .and_then(|(before, now)| now.checked_sub(before))
            .map(|used| self.part_of(used, reading.held));
        // What others do with the rest of the GPU cannot be told apart from what this pod does.
        let whole = self.part.is_whole() && self.part.parent.is_none();
        let own_memory = own.and_then(|(_, memory)| memory);
        self.span.add(Increment {
            millis: if millis > longest { 0 } else { millis },
            percent: reading.percent.filter(|_| whole),
            memory_bytes: own_memory.or(reading.memory_bytes.filter(|_| whole)),
            energy_millijoules: energy,
            processes: own.map(|(processes, _)| processes),
        });
        let (users, holders) = (reading.users.as_ref()?, reading.holders.as_ref()?);
        let is_foreign = |user: &&User<'_>| user.pod_uid.is_none_or(|uid| !holders.contains(&uid));
        u32::try_from(users.iter().filter(is_foreign).count()).ok()
    }

    /// Goes on with what was stated before.
    pub fn take_over(&mut self, before: &Evidence) {
        let counters = before
            .devices
            .iter()
            .find(|device| device.uuid == self.part.uuid)
            .and_then(|device| device.counters);
        if let Some(counters) = counters {
            self.stated = self.stated.and(Integrals::of(chain::measured(counters)));
        }
    }

    /// Its part of what all who hold the GPU used together.
    fn part_of(&self, used: u64, held: u64) -> u64 {
        let weight = self.part.weight();
        let part = u128::from(used) * u128::from(weight) / u128::from(held.max(weight).max(1));
        u64::try_from(part).unwrap_or(used)
    }

    /// As the API holds it.
    #[must_use]
    pub fn told(&self) -> DeviceUse {
        let counters = chain::stated(self.stated.counters());
        let share = Some(self.part.share).filter(|_| !self.part.is_whole());
        DeviceUse {
            uuid: self.part.uuid.clone(),
            parent_uuid: self.part.parent.clone(),
            share_numerator: share.map(|share| share.0),
            share_denominator: share.map(|share| share.1),
            counters: Some(counters).filter(|counters| *counters != Counters::default()),
        }
    }
}
