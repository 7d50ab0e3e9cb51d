//! Who may do what, as the API server's authorizer answers: what `kubectl auth can-i` asks, without starting it a thousand times.

use std::fmt;

use anyhow::{Context as _, Result, bail};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::api::{
    authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec},
    rbac::v1::{ClusterRoleBinding, RoleBinding, RoleRef, Subject},
};
use kube::{
    Api,
    api::{DeleteParams, ListParams, ObjectMeta, PostParams},
};

use crate::{
    tenant::{self, Tenant},
    world::World,
};

/// Questions that are asked at a time.
const AT_A_TIME: usize = 16;
/// The API group of roles.
const RBAC: &str = "rbac.authorization.k8s.io";

/// Somebody about whom is asked.
#[derive(Clone, Debug)]
pub struct Person {
    /// What the table calls them.
    pub name: String,
    /// Their name to the API server.
    pub user: String,
    /// Their groups.
    groups: Vec<String>,
}

/// Whether somebody may do something.
#[derive(Clone, Debug)]
pub struct Question {
    /// Who.
    pub person: Person,
    /// What.
    pub verb: String,
    /// To which resource, as kubectl writes it: `computejobs.gridstake.dev/status`.
    pub resource: String,
    /// To which object; empty for any.
    pub name: String,
    /// Where; `None` for the whole cluster.
    pub namespace: Option<String>,
    /// What the answer should be.
    pub expected: bool,
}

/// A question that was answered.
#[derive(Clone, Debug)]
pub struct Answer {
    /// What was asked.
    pub question: Question,
    /// What was answered.
    pub allowed: bool,
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Question {
            person,
            verb,
            resource,
            name,
            namespace,
            expected,
        } = &self.question;
        let place = namespace.as_deref().unwrap_or("the cluster");
        let object = if name.is_empty() {
            String::new()
        } else {
            format!(" {name}")
        };
        write!(
            f,
            "{} may {verb} {resource}{object} in {place}: {}, not {expected}",
            person.name, self.allowed
        )
    }
}

/// The people of the table, with the roles that they have there; they lose these at the story's end.
pub async fn cast(world: &World, tenant: &Tenant) -> Result<Vec<Person>> {
    let bindings: Api<ClusterRoleBinding> = Api::all(world.client.clone());
    let ours = ListParams::default().labels(tenant::LABEL);
    let undo = bindings.clone();
    world.undo_at_the_end("take the story's people their roles", async move {
        undo.delete_collection(&DeleteParams::default(), &ours)
            .await
            .map(drop)
            .context("remove ClusterRoleBindings")
    });
    let mut people = Vec::new();
    for (name, role) in [
        ("provider", "gridstake-provider"),
        ("viewer", "gridstake-viewer"),
        ("auditor", "gridstake-auditor"),
        ("cluster-view", "view"),
    ] {
        let person = Person::somebody(name);
        let binding = ClusterRoleBinding {
            metadata: ObjectMeta {
                generate_name: Some(format!("e2e-{name}-")),
                labels: Some([(tenant::LABEL.to_owned(), "true".to_owned())].into()),
                ..ObjectMeta::default()
            },
            role_ref: cluster_role(role),
            subjects: Some(vec![person.subject()]),
        };
        bindings
            .create(&PostParams::default(), &binding)
            .await
            .with_context(|| format!("make {name}"))?;
        people.push(person);
    }
    let in_the_namespace: Api<RoleBinding> = tenant.api();
    for (name, role) in [("tenant", "edit"), ("tenant-view", "view")] {
        let person = Person::somebody(name);
        let binding = RoleBinding {
            metadata: ObjectMeta {
                name: Some(format!("e2e-{name}")),
                ..ObjectMeta::default()
            },
            role_ref: cluster_role(role),
            subjects: Some(vec![person.subject()]),
        };
        in_the_namespace
            .create(&PostParams::default(), &binding)
            .await
            .with_context(|| format!("make {name}"))?;
        people.push(person);
    }
    people.push(Person::somebody("anybody"));
    for (name, account) in [
        ("operator", "gridstake-operator"),
        ("agent", "gridstake-device-agent"),
        ("simulation", "gridstake-simulated-gpus"),
    ] {
        people.push(Person::of_account(name, &world.namespace, account));
    }
    Ok(people)
}

/// The namespace that a place of the table is; `None` for the whole cluster.
pub fn namespace_of(world: &World, tenant: &Tenant, place: &str) -> Result<Option<String>> {
    Ok(match place {
        "own" => Some(tenant.namespace.clone()),
        // No role of the story is bound there.
        "other" => Some("default".into()),
        "release" => Some(world.namespace.clone()),
        "cluster" => None,
        _ => bail!("{place:?} is no place; there are own, other, release and cluster"),
    })
}

/// Asks the API server's authorizer, some questions at a time.
pub async fn ask_all(world: &World, questions: &[Question]) -> Result<Vec<Answer>> {
    let reviews: Api<SubjectAccessReview> = Api::all(world.client.clone());
    stream::iter(questions)
        .map(|question| ask(&reviews, question))
        .buffer_unordered(AT_A_TIME)
        .try_collect()
        .await
}

async fn ask(reviews: &Api<SubjectAccessReview>, question: &Question) -> Result<Answer> {
    let (resource, subresource) = question
        .resource
        .split_once('/')
        .map_or((question.resource.as_str(), None), |(r, s)| (r, Some(s)));
    let (resource, group) = resource.split_once('.').unwrap_or((resource, ""));
    let review = SubjectAccessReview {
        spec: SubjectAccessReviewSpec {
            user: Some(question.person.user.clone()),
            groups: Some(question.person.groups.clone()),
            resource_attributes: Some(ResourceAttributes {
                group: Some(group.into()),
                resource: Some(resource.into()),
                subresource: subresource.map(Into::into),
                verb: Some(question.verb.clone()),
                name: Some(question.name.clone()).filter(|n| !n.is_empty()),
                namespace: question.namespace.clone(),
                ..ResourceAttributes::default()
            }),
            ..SubjectAccessReviewSpec::default()
        },
        ..SubjectAccessReview::default()
    };
    let answered = reviews
        .create(&PostParams::default(), &review)
        .await
        .with_context(|| {
            format!(
                "ask whether {} may {} {}",
                question.person.name, question.verb, question.resource
            )
        })?;
    let status = answered.status.context("the API server gave no answer")?;
    Ok(Answer {
        question: question.clone(),
        allowed: status.allowed,
    })
}

impl Person {
    /// Somebody who is logged in.
    fn somebody(name: &str) -> Self {
        Self {
            name: name.into(),
            user: format!("e2e-{name}"),
            groups: vec!["system:authenticated".into()],
        }
    }

    fn of_account(name: &str, namespace: &str, account: &str) -> Self {
        Self {
            name: name.into(),
            user: format!("system:serviceaccount:{namespace}:{account}"),
            groups: vec![
                "system:serviceaccounts".into(),
                format!("system:serviceaccounts:{namespace}"),
                "system:authenticated".into(),
            ],
        }
    }

    fn subject(&self) -> Subject {
        Subject {
            kind: "User".into(),
            name: self.user.clone(),
            api_group: Some(RBAC.into()),
            namespace: None,
        }
    }
}

fn cluster_role(name: &str) -> RoleRef {
    RoleRef {
        api_group: RBAC.into(),
        kind: "ClusterRole".into(),
        name: name.into(),
    }
}
