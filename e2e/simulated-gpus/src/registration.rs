//! Serves the device plugin on its socket and registers it with the kubelet, again after each restart of the kubelet.
//!
//! A kubelet that starts empties the plugins' folder and makes its own socket anew. So each of these means "again": the
//! kubelet's socket is another file, or our own socket is gone.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::{net::UnixListener, task::JoinSet, time::sleep};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;
use tracing::{info, warn};

use crate::{
    RESOURCE,
    device_plugin::{DevicePluginService, options},
    pod_resources::unix_channel,
    proto::deviceplugin::{
        RegisterRequest, device_plugin_server::DevicePluginServer,
        registration_client::RegistrationClient,
    },
};

/// Name of our socket in the plugins' folder.
pub const SOCKET: &str = "gridstake-simulated-gpus.sock";
/// Name of the kubelet's socket there.
pub const KUBELET_SOCKET: &str = "kubelet.sock";
/// The device plugin API's version.
const API_VERSION: &str = "v1beta1";
/// How often the sockets are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Waits between attempts double from the first to the last.
const FIRST_WAIT: Duration = Duration::from_millis(200);
const LAST_WAIT: Duration = Duration::from_secs(5);

/// Why the plugin is not registered.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum RegistrationError {
    #[error("cannot listen on {path}")]
    Listen { path: PathBuf, source: io::Error },
    #[error("cannot make a channel to the kubelet")]
    Channel(#[from] tonic::transport::Error),
    #[error("kubelet refuses {RESOURCE}: {:?}: {}", .0.code(), .0.message())]
    Refused(tonic::Status),
}

/// Tells one socket file from another, even where the inode's number is used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct FileIdentity {
    device: u64,
    inode: u64,
    changed: (i64, i64),
}

fn identity(path: &Path) -> Option<FileIdentity> {
    let metadata = fs::metadata(path).ok()?;
    Some(FileIdentity {
        device: metadata.dev(),
        inode: metadata.ino(),
        changed: (metadata.ctime(), metadata.ctime_nsec()),
    })
}

/// Serves and registers `service` for ever.
pub async fn run(folder: PathBuf, service: DevicePluginService) {
    let mut wait = FIRST_WAIT;
    let mut last_error = String::new();
    loop {
        let kubelet = wait_for(&folder.join(KUBELET_SOCKET)).await;
        match serve_and_register(&folder, service.clone()).await {
            Ok(server) => {
                info!(resource = RESOURCE, "registered with the kubelet");
                (wait, last_error) = (FIRST_WAIT, String::new());
                until_replaced(&folder, kubelet).await;
                info!("the kubelet has restarted; registering again");
                drop(server);
            }
            Err(error) => {
                let error = format!("{:#}", anyhow::Error::new(error));
                if error != last_error {
                    warn!(%error, "cannot register with the kubelet; trying again");
                    last_error = error;
                }
                sleep(wait).await;
                wait = (wait * 2).min(LAST_WAIT);
            }
        }
    }
}

async fn wait_for(socket: &Path) -> FileIdentity {
    let mut has_said = false;
    loop {
        if let Some(identity) = identity(socket) {
            return identity;
        }
        if !has_said {
            info!(socket = %socket.display(), "waiting for the kubelet's socket");
            has_said = true;
        }
        sleep(LOOK_EVERY).await;
    }
}

/// Returns when the kubelet's socket is another one or ours is gone.
async fn until_replaced(folder: &Path, kubelet: FileIdentity) {
    let own = identity(&folder.join(SOCKET));
    loop {
        sleep(LOOK_EVERY).await;
        let kubelet_now = identity(&folder.join(KUBELET_SOCKET));
        if kubelet_now.is_some_and(|now| now != kubelet) || identity(&folder.join(SOCKET)) != own {
            return;
        }
    }
}

/// Serves the plugin and registers it; the server stops when the set is dropped.
async fn serve_and_register(
    folder: &Path,
    service: DevicePluginService,
) -> Result<JoinSet<()>, RegistrationError> {
    let path = folder.join(SOCKET);
    // One that an earlier run left is in the way.
    let _ = fs::remove_file(&path);
    let listener = UnixListener::bind(&path).map_err(|source| RegistrationError::Listen {
        path: path.clone(),
        source,
    })?;
    let mut server = JoinSet::new();
    server.spawn(async move {
        let outcome = Server::builder()
            .add_service(DevicePluginServer::new(service))
            .serve_with_incoming(UnixListenerStream::new(listener))
            .await;
        if let Err(error) = outcome {
            warn!(%error, "the device plugin's server has stopped");
        }
    });
    let request = RegisterRequest {
        version: API_VERSION.into(),
        endpoint: SOCKET.into(),
        resource_name: RESOURCE.into(),
        options: Some(options()),
    };
    RegistrationClient::new(unix_channel(&folder.join(KUBELET_SOCKET))?)
        .register(request)
        .await
        .map_err(RegistrationError::Refused)?;
    Ok(server)
}
