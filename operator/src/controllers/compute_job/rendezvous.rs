//! How the members of a gang find one another: a headless Service, and each other's names in it. Pure.
//!
//! A member's name is that of attempt and rank: what is left of a former attempt answers to another one, and a member that takes the
//! place of a lost one to the name that its peers know. Of the two, the one that was given up is no longer found (`LABEL_GANG`).

use std::collections::BTreeMap;

use gridstake_crds::{
    ComputeJob,
    names::{LABEL_GANG, LABEL_JOB_UID, LABEL_MANAGED_BY, MANAGED_BY, gang_service, pod_name},
};
use k8s_openapi::{
    api::core::v1::{PodSpec, Service, ServiceSpec},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{Resource as _, ResourceExt as _};

/// Whether `job` is one whose members look for one another.
#[must_use]
pub const fn is_gang(job: &ComputeJob) -> bool {
    job.spec.members > 1
}

/// The Service of the gang `job`. It goes with the job.
#[must_use]
pub fn service(job: &ComputeJob) -> Service {
    let uid = job.uid().unwrap_or_default();
    Service {
        metadata: ObjectMeta {
            name: Some(gang_service(&job.name_any())),
            namespace: job.namespace(),
            labels: Some(BTreeMap::from([
                (LABEL_MANAGED_BY.to_owned(), MANAGED_BY.to_owned()),
                (LABEL_JOB_UID.to_owned(), uid.clone()),
            ])),
            owner_references: Some(job.controller_owner_ref(&()).into_iter().collect()),
            ..ObjectMeta::default()
        },
        spec: Some(ServiceSpec {
            cluster_ip: Some("None".into()),
            selector: Some(BTreeMap::from([
                (LABEL_JOB_UID.to_owned(), uid),
                (LABEL_GANG.to_owned(), job.name_any()),
            ])),
            // Members look for one another before any of them is ready.
            publish_not_ready_addresses: Some(true),
            ..ServiceSpec::default()
        }),
        status: None,
    }
}

/// The names of all members of `attempt`, in the order of their ranks. They are short of the cluster's domain, which nobody tells:
/// a pod's resolver adds it.
#[must_use]
pub fn peers(job: &ComputeJob, attempt: u32) -> Vec<String> {
    let (name, namespace) = (job.name_any(), job.namespace().unwrap_or_default());
    let service = gang_service(&name);
    (0..job.spec.members)
        .map(|rank| {
            let host = pod_name(&name, attempt, rank);
            format!("{host}.{service}.{namespace}.svc")
        })
        .collect()
}

/// Gives the pod of the member of this `rank` its name in the Service.
pub fn join(spec: &mut PodSpec, job: &ComputeJob, attempt: u32, rank: u32) {
    let name = job.name_any();
    spec.hostname = Some(pod_name(&name, attempt, rank));
    spec.subdomain = Some(gang_service(&name));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gang(members: u32) -> ComputeJob {
        let spec = format!("{{gpu: {{count: 1}}, members: {members}, template: {{}}}}");
        let mut job = ComputeJob::new("train", serde_saphyr::from_str(&spec).unwrap());
        job.metadata.namespace = Some("team".into());
        job.metadata.uid = Some("u".into());
        job
    }

    #[test]
    fn members_are_named_in_the_order_of_their_ranks() {
        assert_eq!(
            peers(&gang(2), 3),
            [
                "train-3-0.gang-train.team.svc",
                "train-3-1.gang-train.team.svc"
            ]
        );
        assert!(!is_gang(&gang(1)) && is_gang(&gang(2)));
    }

    #[test]
    fn the_name_that_peers_know_is_the_one_that_the_pod_has() {
        let job = gang(2);
        let mut spec = PodSpec::default();
        join(&mut spec, &job, 1, 1);
        let known = format!(
            "{}.{}.team.svc",
            spec.hostname.unwrap(),
            spec.subdomain.unwrap()
        );
        assert_eq!(peers(&job, 1)[1], known);
    }

    #[test]
    fn the_service_finds_members_that_are_not_ready_and_goes_with_its_job() {
        let service = service(&gang(2));
        assert_eq!(service.owner_references().len(), 1);
        let spec = service.spec.unwrap();
        assert_eq!(spec.cluster_ip.as_deref(), Some("None"));
        assert_eq!(spec.publish_not_ready_addresses, Some(true));
        let selector = spec.selector.unwrap();
        assert_eq!(
            (&*selector[LABEL_JOB_UID], &*selector[LABEL_GANG]),
            ("u", "train")
        );
    }

    #[test]
    fn no_name_is_longer_than_a_label_of_a_domain() {
        let mut job = gang(256);
        job.metadata.name = Some("a".repeat(52));
        for peer in peers(&job, 99_999) {
            assert!(peer.split('.').all(|label| label.len() <= 63), "{peer}");
        }
    }
}
