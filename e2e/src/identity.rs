//! Clients that act as somebody else: with a real token, or by impersonation.

use anyhow::{Context as _, Result};
use k8s_openapi::api::{
    authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec},
    core::v1::{Pod, ServiceAccount},
    rbac::v1::{RoleBinding, RoleRef, Subject},
};
use kube::{
    Api, Client, ResourceExt as _,
    api::{ObjectMeta, PostParams},
    config::AuthInfo,
};

use crate::{
    tenant::Tenant,
    world::{World, connection_of_kubeconfig, find_release},
};

/// A client with the very token that the API server gives to `pod`: it names the pod's node.
pub async fn of_pod(world: &World, pod: &Pod) -> Result<Client> {
    let reference = BoundObjectReference {
        api_version: Some("v1".into()),
        kind: Some("Pod".into()),
        name: Some(pod.name_any()),
        uid: pod.uid(),
    };
    let account = pod
        .spec
        .as_ref()
        .and_then(|s| s.service_account_name.clone())
        .context("the pod has no ServiceAccount")?;
    let namespace = pod.namespace().context("the pod has no namespace")?;
    of_account(world, &namespace, &account, Some(reference)).await
}

/// A client with a token of a ServiceAccount, bound to an object or to none.
pub async fn of_account(
    world: &World,
    namespace: &str,
    account: &str,
    bound_to: Option<BoundObjectReference>,
) -> Result<Client> {
    let accounts: Api<ServiceAccount> = Api::namespaced(world.client.clone(), namespace);
    let request = TokenRequest {
        spec: TokenRequestSpec {
            bound_object_ref: bound_to,
            ..TokenRequestSpec::default()
        },
        ..TokenRequest::default()
    };
    let answer = accounts
        .create_token_request(account, &PostParams::default(), &request)
        .await
        .with_context(|| format!("ask for a token of {namespace}/{account}"))?;
    let token = answer.status.context("the API server gave no token")?.token;
    client(
        world,
        AuthInfo {
            token: Some(token.into()),
            ..AuthInfo::default()
        },
    )
}

/// A client of a user with the built-in ClusterRole `role` in the tenant's namespace.
pub async fn of_user_with_role(world: &World, tenant: &Tenant, role: &str) -> Result<Client> {
    let accounts: Api<ServiceAccount> = tenant.api();
    let metadata = ObjectMeta {
        name: Some(format!("user-with-{role}")),
        ..ObjectMeta::default()
    };
    let account = accounts
        .create(
            &PostParams::default(),
            &ServiceAccount {
                metadata: metadata.clone(),
                ..ServiceAccount::default()
            },
        )
        .await?;
    let bindings: Api<RoleBinding> = tenant.api();
    let binding = RoleBinding {
        metadata,
        role_ref: RoleRef {
            api_group: "rbac.authorization.k8s.io".into(),
            kind: "ClusterRole".into(),
            name: role.into(),
        },
        subjects: Some(vec![Subject {
            kind: "ServiceAccount".into(),
            name: account.name_any(),
            namespace: Some(tenant.namespace.clone()),
            api_group: None,
        }]),
    };
    bindings.create(&PostParams::default(), &binding).await?;
    of_account(world, &tenant.namespace, &account.name_any(), None).await
}

/// A client in the operator's name, with the administrator's leave.
pub fn operator(world: &World) -> Result<Client> {
    let namespace = &world.namespace;
    impersonating(
        world,
        &format!("system:serviceaccount:{namespace}:gridstake-operator"),
    )
}

/// A client in the name of `user`, with the administrator's leave.
pub fn impersonating(world: &World, user: &str) -> Result<Client> {
    client(
        world,
        AuthInfo {
            impersonate: Some(user.into()),
            ..world.config.auth_info.clone()
        },
    )
}

/// The administrator under the operator's name: whom neither roles nor Gridstake's admission policies refuse anything,
/// so that only the definitions of the API types answer. Works also where Gridstake is not installed.
pub async fn administrator_as_operator() -> Result<Client> {
    let mut config = connection_of_kubeconfig().await?;
    let administrator = Client::try_from(config.clone()).context("make a client")?;
    let Ok((namespace, _)) = find_release(&administrator).await else {
        return Ok(administrator);
    };
    config.auth_info.impersonate = Some(format!(
        "system:serviceaccount:{namespace}:gridstake-operator"
    ));
    config.auth_info.impersonate_groups = Some(vec!["system:masters".into()]);
    Client::try_from(config).context("make a client")
}

fn client(world: &World, who: AuthInfo) -> Result<Client> {
    let mut config = world.config.clone();
    config.auth_info = who;
    Client::try_from(config).context("make a client")
}
