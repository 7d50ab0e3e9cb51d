//! Nodes that answer alike to what a request wishes of their hardware, place, provider and chain.
//!
//! A class is a combination of five answers; a request's wishes are put to each distinct answer once, not to each node.
//! Labels and names are no part of it ([`super::labels`]), for they would make a class of nearly every node; nor are
//! taints, which come and go.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::run::Runs;
use crate::scheduler::filter::{Property, is_tainted};
use crate::scheduler::gpu_model;
use crate::scheduler::node_facts::{DeviceFacts, NodeFacts};
use crate::scheduler::request::Request;

/// So many texts that models were asked for by are remembered.
const REMEMBERED_MODELS: usize = 4096;

/// A dimension in which nodes differ: the distinct answers, each as a node that has nothing but this answer.
#[derive(Clone, Debug, Default)]
struct Dimension {
    numbers: BTreeMap<String, u32>,
    answers: Vec<NodeFacts>,
}

impl Dimension {
    /// The number of an answer; `key` is the same for two answers only if they are the same.
    fn number(&mut self, key: String, answer: impl FnOnce() -> NodeFacts) -> u32 {
        let next = u32::try_from(self.answers.len()).unwrap_or(u32::MAX);
        *self.numbers.entry(key).or_insert_with(|| {
            self.answers.push(answer());
            next
        })
    }

    fn suits(&self, property: Property, request: &Request) -> Vec<bool> {
        self.answers
            .iter()
            .map(|answer| property.suits(answer, request))
            .collect()
    }
}

/// The numbers of a node's answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Class {
    gpus: u32,
    region: u32,
    jurisdiction: u32,
    namespaces: u32,
    chain: u32,
}

/// What a class answers to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The first wish that it does not meet, among those before the labels in the order of the filters.
    pub misses: Option<Property>,
    /// Whether it is on another chain.
    pub other_chain: bool,
}

/// The classes of a fleet and which node is of which.
#[derive(Clone, Debug, Default)]
pub struct Classes {
    gpus: Dimension,
    /// For each distinct set of GPUs, the numbers of their models.
    models_of: Vec<Vec<usize>>,
    models: Vec<String>,
    /// For each text that models were asked for by, which of `models` it means.
    asked: BTreeMap<String, Vec<bool>>,
    regions: Dimension,
    jurisdictions: Dimension,
    namespaces: Dimension,
    chains: Dimension,
    taints: Dimension,
    numbers: BTreeMap<Class, u32>,
    classes: Vec<Class>,
    /// Class and taints of each node, by its position.
    of: Vec<(u32, u32)>,
    runs: Runs,
}

impl Classes {
    /// Says what the node at `position` is.
    pub fn set(&mut self, position: usize, facts: &NodeFacts) {
        let (class, taints) = (self.class_of(facts), self.taints_of(facts));
        if let Some(known) = self.of.get_mut(position) {
            if known.0 != class {
                self.runs.forget();
            }
            *known = (class, taints);
        }
    }

    /// Whether the node at `position` is cordoned or has a taint that needs to be tolerated.
    pub fn is_tainted(&self, position: usize) -> bool {
        let answer = self.taints.answers.get(self.taints(position));
        answer.is_some_and(|answer| answer.cordoned || !answer.taints.is_empty())
    }

    /// Makes room for a node at `position`, to be [`Self::set`].
    pub fn insert(&mut self, position: usize) {
        self.of.insert(position.min(self.of.len()), (0, 0));
        self.runs.forget();
    }

    /// Forgets the node at `position`.
    pub fn remove(&mut self, position: usize) {
        if position < self.of.len() {
            self.of.remove(position);
            self.runs.forget();
        }
    }

    /// How many distinct answers are remembered, of nodes that are gone too.
    pub fn remembered(&self) -> usize {
        self.classes.len() + self.taints.answers.len()
    }

    /// Brings the runs of equal classes up to date.
    pub fn count_runs(&mut self) {
        self.runs.count(self.of.iter().map(|(class, _)| *class));
    }

    /// The runs of equal classes, as of [`Self::count_runs`].
    pub fn runs(&self) -> &Runs {
        &self.runs
    }

    /// The number of the taints of the node at `position`.
    pub fn taints(&self, position: usize) -> usize {
        let taints = self.of.get(position).map_or(0, |(_, taints)| *taints);
        usize::try_from(taints).unwrap_or(usize::MAX)
    }

    /// For each number of taints, whether the request does not put up with them.
    pub fn tainted(&self, request: &Request) -> Vec<bool> {
        let answers = self.taints.answers.iter();
        answers.map(|answer| is_tainted(answer, request)).collect()
    }

    fn class_of(&mut self, facts: &NodeFacts) -> u32 {
        let class = Class {
            gpus: self.gpus_of(facts),
            region: self
                .regions
                .number(format!("{:?}", facts.region), || NodeFacts {
                    region: facts.region.clone(),
                    ..nothing()
                }),
            jurisdiction: self
                .jurisdictions
                .number(format!("{:?}", facts.jurisdiction), || NodeFacts {
                    jurisdiction: facts.jurisdiction.clone(),
                    ..nothing()
                }),
            namespaces: self
                .namespaces
                .number(format!("{:?}", facts.namespaces), || NodeFacts {
                    namespaces: facts.namespaces.clone(),
                    ..nothing()
                }),
            chain: self
                .chains
                .number(format!("{:?}", facts.chain), || NodeFacts {
                    chain: facts.chain.clone(),
                    ..nothing()
                }),
        };
        let next = u32::try_from(self.classes.len()).unwrap_or(u32::MAX);
        *self.numbers.entry(class).or_insert_with(|| {
            self.classes.push(class);
            next
        })
    }

    fn gpus_of(&mut self, facts: &NodeFacts) -> u32 {
        let key = |device: &DeviceFacts| {
            format!(
                "{:?}",
                (&device.model, device.memory_mib, device.compute_capability)
            )
        };
        let mut distinct: BTreeMap<String, &DeviceFacts> = BTreeMap::new();
        let mut previous: Option<&DeviceFacts> = None;
        for device in &facts.devices {
            // Most nodes have several of one kind.
            let alike = |other: &DeviceFacts| {
                other.model == device.model
                    && other.memory_mib == device.memory_mib
                    && other.compute_capability == device.compute_capability
            };
            if !previous.is_some_and(alike) {
                distinct.insert(key(device), device);
            }
            previous = Some(device);
        }
        let all = distinct.keys().fold(String::new(), |mut all, key| {
            // Writing to a string cannot fail.
            let _ = write!(all, "{key}\n");
            all
        });
        let known = self.gpus.answers.len();
        let number = self.gpus.number(all, || NodeFacts {
            devices: distinct.values().copied().cloned().collect(),
            ..nothing()
        });
        if self.gpus.answers.len() > known {
            let models: Vec<usize> = distinct
                .values()
                .map(|device| {
                    let found = self.models.iter().position(|model| *model == device.model);
                    found.unwrap_or_else(|| {
                        self.models.push(device.model.clone());
                        self.models.len() - 1
                    })
                })
                .collect();
            self.models_of.push(models);
        }
        number
    }

    fn taints_of(&mut self, facts: &NodeFacts) -> u32 {
        let hard = facts
            .taints
            .iter()
            .filter(|taint| matches!(taint.effect.as_str(), "NoSchedule" | "NoExecute"));
        let mut key = if facts.cordoned { "cordoned" } else { "" }.to_owned();
        for taint in hard.clone() {
            // When it came to be is nothing that a toleration speaks of.
            let _ = write!(key, "{:?}", (&taint.key, &taint.value, &taint.effect));
        }
        self.taints.number(key, || NodeFacts {
            taints: hard.cloned().collect(),
            cordoned: facts.cordoned,
            ..nothing()
        })
    }

    /// What each class answers to the request.
    pub fn verdicts(&mut self, request: &Request) -> Vec<Verdict> {
        let gpus = self.gpu_misses(request);
        let regions = self.regions.suits(Property::Region, request);
        let jurisdictions = self.jurisdictions.suits(Property::Jurisdiction, request);
        let namespaces = self.namespaces.suits(Property::Namespace, request);
        let chains = self.chains.suits(Property::Chain, request);
        let suits = |answers: &[bool], number: u32| {
            let number = usize::try_from(number).unwrap_or(usize::MAX);
            answers.get(number).copied().unwrap_or(false)
        };
        let misses = |class: &Class| {
            let gpus = usize::try_from(class.gpus)
                .ok()
                .and_then(|number| gpus.get(number).copied())
                .flatten();
            if gpus.is_some() {
                gpus
            } else if !suits(&regions, class.region) {
                Some(Property::Region)
            } else if !suits(&jurisdictions, class.jurisdiction) {
                Some(Property::Jurisdiction)
            } else if !suits(&namespaces, class.namespaces) {
                Some(Property::Namespace)
            } else {
                None
            }
        };
        self.classes
            .iter()
            .map(|class| Verdict {
                misses: misses(class),
                other_chain: !suits(&chains, class.chain),
            })
            .collect()
    }

    /// For each distinct set of GPUs, the first wish about GPUs that it does not meet.
    fn gpu_misses(&mut self, request: &Request) -> Vec<Option<Property>> {
        let wanted = self.wanted_models(&request.gpu.models);
        let is_wanted = |models: &Vec<usize>| {
            wanted.as_ref().is_none_or(|wanted| {
                models
                    .iter()
                    .all(|model| wanted.get(*model).copied().unwrap_or(false))
            })
        };
        self.gpus
            .answers
            .iter()
            .zip(&self.models_of)
            .map(|(answer, models)| {
                if !is_wanted(models) {
                    return Some(Property::Model);
                }
                [Property::GpuMemory, Property::ComputeCapability]
                    .into_iter()
                    .find(|property| !property.suits(answer, request))
            })
            .collect()
    }

    /// Which models any of the texts means; `None` when all will do. Comparing names costs more than all the rest of a
    /// decision, and the same few texts come again and again.
    fn wanted_models(&mut self, asked: &[String]) -> Option<Vec<bool>> {
        if asked.is_empty() {
            return None;
        }
        if self.asked.len() > REMEMBERED_MODELS {
            self.asked.clear();
        }
        let mut wanted = vec![false; self.models.len()];
        for text in asked {
            if !self.asked.contains_key(text) {
                self.asked.insert(text.clone(), Vec::new());
            }
            let Some(means) = self.asked.get_mut(text) else {
                continue;
            };
            let new = self.models.iter().skip(means.len());
            means.extend(new.map(|model| gpu_model::matches(text, model)));
            for (wanted, means) in wanted.iter_mut().zip(means.iter()) {
                *wanted |= means;
            }
        }
        Some(wanted)
    }
}

/// A node of which nothing is known: it meets every wish but those about place.
fn nothing() -> NodeFacts {
    use gridstake_crds::TokenAmount;

    use crate::scheduler::resources::Resources;
    NodeFacts {
        name: String::new(),
        labels: BTreeMap::new(),
        taints: Vec::new(),
        cordoned: false,
        namespaces: None,
        allocatable: Resources::default(),
        devices: Vec::new(),
        offer: Ok(()),
        closes_in: None,
        price: TokenAmount::default(),
        region: None,
        jurisdiction: None,
        reputation: 0,
        bonded: false,
        provider: None,
        chain: None,
        stake: 0,
    }
}
