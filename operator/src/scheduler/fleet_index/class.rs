//! Nodes that answer alike to what a request wishes of their hardware, place, provider and chain.
//!
//! A class is a combination of five answers; a request's wishes are put to each distinct answer once, not to each node.
//! Labels and names are no part of it ([`super::labels`]), for they would make a class of nearly every node; nor are
//! taints, which come and go.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;

use super::run::Runs;
use crate::scheduler::filter::{Property, is_at, is_tainted};
use crate::scheduler::gpu_model;
use crate::scheduler::node_facts::{DeviceFacts, NodeFacts};
use crate::scheduler::request::Request;

/// So many texts that models or places were asked for by are remembered.
const REMEMBERED: usize = 4096;

/// A dimension in which nodes differ: the distinct answers, each as a node that has nothing but this answer.
#[derive(Clone, Debug, Default)]
struct Dimension {
    numbers: BTreeMap<String, u32>,
    answers: Vec<NodeFacts>,
    /// Whether each answer suits the request that is looked at.
    suiting: Vec<bool>,
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

    /// Puts a wish to each answer.
    fn ask(&mut self, property: Property, request: &Request) {
        self.suiting.clear();
        let answers = self.answers.iter();
        let suits = answers.map(|answer| property.suits(answer, request));
        self.suiting.extend(suits);
    }

    /// Lets only those answers pass that one of the texts means, or all if there is no text.
    fn ask_for(
        &mut self,
        texts: &[String],
        meanings: &mut Meanings,
        means: impl Fn(&NodeFacts, &str) -> bool,
    ) {
        self.suiting.clear();
        self.suiting.resize(self.answers.len(), texts.is_empty());
        for text in texts {
            meanings.mark(text, &self.answers, &means, &mut self.suiting);
        }
    }

    #[inline]
    fn suits(&self, number: u32) -> bool {
        let number = usize::try_from(number).unwrap_or(usize::MAX);
        self.suiting.get(number).copied().unwrap_or(false)
    }
}

/// What texts of requests mean, by the number of the answer. Comparing texts costs more than all the rest of a decision,
/// and the same few come again and again.
#[derive(Clone, Debug, Default)]
struct Meanings(HashMap<String, Vec<bool>>);

impl Meanings {
    /// Marks the answers that `text` means.
    fn mark<A>(
        &mut self,
        text: &str,
        answers: &[A],
        means: impl Fn(&A, &str) -> bool,
        marked: &mut [bool],
    ) {
        let mark = |marked: &mut [bool], meant: &[bool]| {
            for (marked, meant) in marked.iter_mut().zip(meant) {
                *marked |= meant;
            }
        };
        if let Some(meant) = self.0.get_mut(text) {
            if meant.len() < answers.len() {
                let new = answers.iter().skip(meant.len());
                meant.extend(new.map(|answer| means(answer, text)));
            }
            return mark(marked, meant);
        }
        if self.0.len() >= REMEMBERED {
            self.0.clear();
        }
        let new: Vec<bool> = answers.iter().map(|answer| means(answer, text)).collect();
        mark(marked, &new);
        self.0.insert(text.to_owned(), new);
    }
}

/// The numbers of a node's answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Class {
    /// The kind of its GPUs.
    pub gpus: u32,
    region: u32,
    jurisdiction: u32,
    namespaces: u32,
    chain: u32,
}

/// The classes of a fleet and which node is of which.
#[derive(Clone, Debug, Default)]
pub struct Classes {
    gpus: Dimension,
    /// For each distinct set of GPUs, the numbers of their models.
    models_of: Vec<Vec<usize>>,
    models: Vec<String>,
    model_meanings: Meanings,
    /// Whether each model is one that the request names.
    wanted_models: Vec<bool>,
    /// For each distinct set of GPUs, the first wish about GPUs that it does not meet.
    gpu_misses: Vec<Option<Property>>,
    regions: Dimension,
    region_meanings: Meanings,
    jurisdictions: Dimension,
    jurisdiction_meanings: Meanings,
    namespaces: Dimension,
    chains: Dimension,
    taints: Dimension,
    /// Class and number of the taints of each node, by its position.
    of: Vec<(Class, u32)>,
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
        let taints = self.of.get(position).map(|(_, taints)| *taints);
        let number = taints.and_then(|taints| usize::try_from(taints).ok());
        let answer = number.and_then(|number| self.taints.answers.get(number));
        answer.is_some_and(|answer| answer.cordoned || !answer.taints.is_empty())
    }

    /// Makes room for a node at `position`, to be [`Self::set`].
    pub fn insert(&mut self, position: usize) {
        self.of
            .insert(position.min(self.of.len()), (Class::default(), 0));
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
        let dimensions = [
            &self.gpus,
            &self.regions,
            &self.jurisdictions,
            &self.namespaces,
            &self.chains,
            &self.taints,
        ];
        dimensions
            .map(|dimension| dimension.answers.len())
            .iter()
            .sum()
    }

    /// Brings the runs of equal classes up to date.
    pub fn count_runs(&mut self) {
        self.runs.count(self.of.iter().map(|(class, _)| *class));
    }

    /// The runs of equal classes, as of [`Self::count_runs`].
    pub fn runs(&self) -> &Runs {
        &self.runs
    }

    fn class_of(&mut self, facts: &NodeFacts) -> Class {
        Class {
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
        }
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
            let _ = writeln!(all, "{key}");
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

    /// Puts the wishes of a request to all answers, for [`Self::gpus_miss`], [`Self::misses`] and
    /// [`Self::is_on_other_chain`].
    pub fn ask(&mut self, request: &Request) {
        self.ask_gpus(request);
        self.regions.ask_for(
            &request.regions,
            &mut self.region_meanings,
            |answer, text| is_at(answer.region.as_deref(), text),
        );
        self.jurisdictions.ask_for(
            &request.jurisdictions,
            &mut self.jurisdiction_meanings,
            |answer, text| is_at(answer.jurisdiction.as_deref(), text),
        );
        self.namespaces.ask(Property::Namespace, request);
        self.chains.ask(Property::Chain, request);
        self.taints.suiting.clear();
        let suits = self.taints.answers.iter();
        let suits = suits.map(|answer| !is_tainted(answer, request));
        self.taints.suiting.extend(suits);
    }

    /// The first wish about GPUs that this kind does not meet.
    #[inline]
    pub fn gpus_miss(&self, gpus: u32) -> Option<Property> {
        let number = usize::try_from(gpus).ok()?;
        self.gpu_misses.get(number).copied().flatten()
    }

    /// The first wish that the class does not meet between those about GPUs and those about labels.
    #[inline]
    pub fn misses(&self, class: &Class) -> Option<Property> {
        if !self.regions.suits(class.region) {
            Some(Property::Region)
        } else if !self.jurisdictions.suits(class.jurisdiction) {
            Some(Property::Jurisdiction)
        } else if !self.namespaces.suits(class.namespaces) {
            Some(Property::Namespace)
        } else {
            None
        }
    }

    /// Whether no class misses any wish but those about GPUs.
    pub fn all_suit_but_for_gpus(&self) -> bool {
        [
            &self.regions,
            &self.jurisdictions,
            &self.namespaces,
            &self.chains,
        ]
        .into_iter()
        .all(|dimension| dimension.suiting.iter().all(|suits| *suits))
    }

    /// Whether the class is on another chain than the payer.
    #[inline]
    pub fn is_on_other_chain(&self, class: &Class) -> bool {
        !self.chains.suits(class.chain)
    }

    /// Whether the node at `position` has taints that the request does not put up with.
    pub fn is_barred(&self, position: usize) -> bool {
        self.of
            .get(position)
            .is_some_and(|(_, taints)| !self.taints.suits(*taints))
    }

    fn ask_gpus(&mut self, request: &Request) {
        let asked = &request.gpu.models;
        self.wanted_models.clear();
        self.wanted_models
            .resize(self.models.len(), asked.is_empty());
        for text in asked {
            self.model_meanings.mark(
                text,
                &self.models,
                |model, text| gpu_model::matches(text, model),
                &mut self.wanted_models,
            );
        }
        let is_wanted = |model: &usize| self.wanted_models.get(*model).copied().unwrap_or(false);
        let misses =
            |models: &Vec<usize>| (!models.iter().all(is_wanted)).then_some(Property::Model);
        self.gpu_misses.clear();
        self.gpu_misses.extend(self.models_of.iter().map(misses));
        for property in [Property::GpuMemory, Property::ComputeCapability] {
            let kinds = self.gpu_misses.iter_mut().zip(&self.gpus.answers);
            for (missed, answer) in kinds.filter(|(missed, _)| missed.is_none()) {
                if !property.suits(answer, request) {
                    *missed = Some(property);
                }
            }
        }
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
        owner: None,
        stake: 0,
    }
}
