//! Jobs that ask for the same have the same answer on the same fleet: what they ask for is read once for each version of
//! their spec, and answered once in each pass. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use gridstake_crds::{ComputeJob, names::JOB_PRIORITY_CLASS};

use super::bounds::longest;
use crate::{
    controllers::job_request::{Shunned, job_request},
    error::chain,
    scheduler::{JobUid, Request, Snapshot, explain, holds::Millis, request::OfNamespace},
};

/// With more shapes than this that nobody asks for any more, all are numbered anew.
const IDLE_SHAPES: usize = 4096;

/// What a job asks for, whatever its namespace says and wherever it has failed.
#[derive(Clone, Debug)]
pub struct Asked {
    /// The request of a first attempt, of nobody's: jobs that ask for the same share it.
    pub request: Arc<Request>,
    /// For how long an attempt of it can hold its GPUs at most; `None`: nobody knows.
    pub longest: Option<Millis>,
    /// Jobs of one number ask for the same.
    number: u32,
}

/// What all jobs ask for.
#[derive(Debug, Default)]
pub struct Shapes {
    jobs: BTreeMap<JobUid, (Option<i64>, Result<Asked, String>)>,
    known: BTreeMap<String, Asked>,
}

impl Shapes {
    /// What `job` asks for; else what is wrong with its template.
    pub fn of(&mut self, uid: JobUid, job: &ComputeJob) -> Result<Asked, String> {
        let generation = job.metadata.generation;
        if let Some((known, asked)) = self.jobs.get(&uid)
            && *known == generation
        {
            return asked.clone();
        }
        let asked = self.read(job);
        self.jobs.insert(uid, (generation, asked.clone()));
        asked
    }

    fn read(&mut self, job: &ComputeJob) -> Result<Asked, String> {
        let request = job_request(
            job,
            1,
            OfNamespace::default(),
            Shunned::default(),
            JOB_PRIORITY_CLASS,
        )
        .map_err(|error| chain(&error))?;
        let longest = longest(job);
        let nobodys = Request {
            job_uid: JobUid([0; 16]),
            ..request
        };
        // The text tells every field.
        let text = format!("{longest:?} {nobodys:?}");
        let number = u32::try_from(self.known.len()).unwrap_or(u32::MAX);
        let asked = self.known.entry(text).or_insert_with(|| Asked {
            request: Arc::new(nobodys),
            longest,
            number,
        });
        Ok(asked.clone())
    }

    /// Forgets jobs that are gone.
    pub fn keep(&mut self, exists: impl Fn(&JobUid) -> bool) {
        self.jobs.retain(|uid, _| exists(uid));
        if self.known.len() > self.jobs.len().saturating_add(IDLE_SHAPES) {
            self.jobs.clear();
            self.known.clear();
        }
    }
}

/// What tells the answers of two jobs apart.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Shape {
    asked: u32,
    namespace: OfNamespace,
    avoid: BTreeSet<String>,
    same_owner: BTreeSet<String>,
}

impl Shape {
    /// That of a job that asks for `asked`, as `request` says it for its next attempt. `labels_count` says whether any
    /// node looks at the labels of namespaces.
    #[must_use]
    pub fn new(asked: &Asked, request: &Request, labels_count: bool) -> Self {
        let labels = labels_count.then(|| request.namespace_labels.clone());
        Self {
            asked: asked.number,
            namespace: OfNamespace {
                labels: labels.unwrap_or_default(),
                chain: request.chain.clone(),
            },
            avoid: request.avoid.clone(),
            same_owner: request.same_owner.clone(),
        }
    }
}

/// Answers of one pass.
#[derive(Debug, Default)]
pub struct Answers {
    satisfiable: BTreeMap<Shape, bool>,
    refused: BTreeSet<Shape>,
    words: BTreeMap<(Shape, bool), String>,
}

impl Answers {
    /// Whether any node could ever take the job.
    pub fn is_satisfiable(
        &mut self,
        shape: &Shape,
        snapshot: &Snapshot,
        request: &Request,
    ) -> bool {
        if let Some(known) = self.satisfiable.get(shape) {
            return *known;
        }
        let is = explain::satisfiable(snapshot, request).is_ok();
        self.satisfiable.insert(shape.clone(), is);
        is
    }

    /// Notes that a job of this shape does not fit. In the rest of the pass none will: what is free only becomes less,
    /// and so does what may be taken of kept room.
    pub fn refuse(&mut self, shape: Shape) {
        self.refused.insert(shape);
    }

    /// Whether a job of this shape has not fitted in this pass.
    #[must_use]
    pub fn is_refused(&self, shape: &Shape) -> bool {
        self.refused.contains(shape)
    }

    /// What jobs of this shape are told, which `say` finds the first time. `is_bound` says whether room is kept from them.
    pub fn words(&mut self, shape: &Shape, is_bound: bool, say: impl FnOnce() -> String) -> String {
        let words = self.words.entry((shape.clone(), is_bound));
        words.or_insert_with(say).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scheduler::fixtures::{node, snapshot};

    fn job(uid: u8, generation: i64, spec: &str) -> (JobUid, ComputeJob) {
        let uid = JobUid([uid; 16]);
        let job = serde_saphyr::from_str(&format!(
            "{{apiVersion: gridstake.dev/v1alpha1, kind: ComputeJob, metadata: {{name: j{}, namespace: n, uid: {uid}, generation: {generation}}}, \
             spec: {{gpu: {{count: 2}}, template: {{spec: {{containers: [{{name: a, image: a}}]}}}}{spec}}}}}",
            uid.0[0]
        ))
        .unwrap();
        (uid, job)
    }

    fn number(shapes: &mut Shapes, (uid, job): (JobUid, ComputeJob)) -> u32 {
        shapes.of(uid, &job).unwrap().number
    }

    #[test]
    fn jobs_that_ask_for_the_same_are_of_one_shape() {
        let mut shapes = Shapes::default();
        let first = number(&mut shapes, job(1, 1, ""));
        assert_eq!(number(&mut shapes, job(2, 1, "")), first);
        assert_eq!(number(&mut shapes, job(3, 1, ", suspend: false")), first);
        let others = [
            ", members: 2",
            ", timeouts: {run: 1h}",
            ", timeouts: {run: 1h, start: 1m}",
            ", pricing: {maxPerGpuSecond: '1'}",
        ];
        let numbers: BTreeSet<u32> = (4..)
            .zip(others)
            .map(|(uid, spec)| number(&mut shapes, job(uid, 1, spec)))
            .chain([first])
            .collect();
        assert_eq!(numbers.len(), 5);
    }

    #[test]
    fn a_changed_spec_is_read_anew() {
        let mut shapes = Shapes::default();
        let first = number(&mut shapes, job(1, 1, ""));
        assert_eq!(
            number(&mut shapes, job(1, 1, ", members: 2")),
            first,
            "of the same generation"
        );
        assert_ne!(number(&mut shapes, job(1, 2, ", members: 2")), first);
    }

    #[test]
    fn labels_of_namespaces_count_only_where_a_node_looks_at_them() {
        let mut shapes = Shapes::default();
        let (uid, job) = job(1, 1, "");
        let asked = shapes.of(uid, &job).unwrap();
        let of = |name: &str, count| {
            let mut request = (*asked.request).clone();
            request
                .namespace_labels
                .insert("name".to_owned(), name.to_owned());
            Shape::new(&asked, &request, count)
        };
        assert_eq!(of("a", false), of("b", false));
        assert_ne!(of("a", true), of("b", true));
    }

    #[test]
    fn a_shape_is_answered_once() {
        let mut shapes = Shapes::default();
        let (uid, job) = job(1, 1, "");
        let asked = shapes.of(uid, &job).unwrap();
        let shape = Shape::new(&asked, &asked.request, false);
        let mut answers = Answers::default();
        assert!(answers.is_satisfiable(&shape, &snapshot(vec![node("a", 2)]), &asked.request));
        assert!(
            answers.is_satisfiable(&shape, &snapshot(vec![]), &asked.request),
            "it is remembered"
        );
        assert_eq!(answers.words(&shape, true, || "first".to_owned()), "first");
        assert_eq!(answers.words(&shape, true, || "second".to_owned()), "first");
        assert!(!answers.is_refused(&shape));
        answers.refuse(shape.clone());
        assert!(answers.is_refused(&shape));
    }
}
