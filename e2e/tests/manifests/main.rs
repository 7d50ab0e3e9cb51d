//! Manifests, right and wrong, sent to a real API server.
//!
//! `crds/tests/manifests/valid` holds what must be taken; `invalid` holds one mistake per file, and in its first lines
//! (`# expect: …`) the words that the API server must answer: they name the field and the remedy. A file with two
//! documents shows one object before and after a change: the change is refused. Beside these, every bound, type and
//! enumeration of the schemas is broken once by machine.

mod api_server;
mod files;
mod mutation;

use std::path::PathBuf;

use anyhow::{Result, ensure};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use serde_json::Value;

use api_server::{Answer, ApiServer};

/// Requests that are under way at one time.
const CONCURRENCY: usize = 8;

fn repository() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Fails with every complaint, one per line.
fn none_of(complaints: &[String]) -> Result<()> {
    ensure!(
        complaints.is_empty(),
        "{} complaints:\n{}",
        complaints.len(),
        complaints.join("\n")
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_valid_manifest_is_accepted() -> Result<()> {
    ApiServer::visit("valid", async |server| {
        let mut complaints = Vec::new();
        for case in files::read(&repository().join("crds/tests/manifests/valid"))? {
            if let Answer::Refused(message) = server.tell(&case.documents).await? {
                complaints.push(format!("{}: refused: {message}", case.file));
            }
        }
        none_of(&complaints)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn every_invalid_manifest_is_refused_in_words_that_name_the_field_and_the_remedy()
-> Result<()> {
    ApiServer::visit("invalid", async |server| {
        let mut complaints = Vec::new();
        for case in files::read(&repository().join("crds/tests/manifests/invalid"))? {
            ensure!(
                !case.expectations.is_empty(),
                "{} has no line `# expect: …`",
                case.file
            );
            match server.tell(&case.documents).await? {
                Answer::Accepted => complaints.push(format!("{}: accepted", case.file)),
                Answer::Refused(message) => complaints.extend(
                    case.expectations
                        .iter()
                        .filter(|expected| !message.contains(expected.as_str()))
                        .map(|expected| format!("{}: no {expected:?} in: {message}", case.file)),
                ),
            }
        }
        none_of(&complaints)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn every_bound_type_and_enumeration_is_held_by_the_api_server() -> Result<()> {
    ApiServer::visit("bounds", async |server| {
        let folder = repository().join("crds/tests/manifests/valid");
        let full: Vec<_> = files::read(&folder)?
            .into_iter()
            .filter(|case| case.file.ends_with("-full.yaml"))
            .collect();
        let kinds = gridstake_crds::all_crds();
        for crd in &kinds {
            let kind = &crd.spec.names.kind;
            let present = full.iter().any(|case| case.documents[0]["kind"] == *kind);
            ensure!(
                present,
                "no {}-full.yaml in {}",
                kind.to_lowercase(),
                folder.display()
            );
        }
        let mut tried = 0;
        let mut complaints = Vec::new();
        for case in &full {
            let sound = &case.documents[0];
            let Some(crd) = kinds
                .iter()
                .find(|crd| sound["kind"] == crd.spec.names.kind)
            else {
                complaints.push(format!("{}: unknown kind", case.file));
                continue;
            };
            // A run that was killed may have left it.
            server.remove(sound).await?;
            let mutations = mutation::all(crd, sound);
            tried += mutations.len();
            let (of_spec, of_status): (Vec<_>, Vec<_>) = mutations
                .into_iter()
                .partition(|mutation| mutation.path.starts_with("spec"));
            complaints.extend(
                judged(of_spec, async |document| {
                    server.try_creating(document).await
                })
                .await?,
            );
            server.create(sound).await?;
            complaints.extend(
                judged(of_status, async |document| {
                    server.try_status(document).await
                })
                .await?,
            );
            server.remove(sound).await?;
        }
        ensure!(tried > 500, "only {tried} mutations were tried");
        none_of(&complaints)
    })
    .await
}

/// What is wrong with the answers to `mutations`, each of which must be refused at its path.
async fn judged(
    mutations: Vec<mutation::Mutation>,
    send: impl AsyncFn(&Value) -> Result<Answer>,
) -> Result<Vec<String>> {
    let send = &send;
    let complaints: Vec<Option<String>> = stream::iter(mutations)
        .map(async move |mutation| {
            Ok::<_, anyhow::Error>(match send(&mutation.document).await? {
                Answer::Accepted => {
                    Some(format!("{} {}: accepted", mutation.path, mutation.mistake))
                }
                Answer::Refused(message) => (!message.contains(&mutation.path)).then(|| {
                    format!(
                        "{} {}: not named in: {message}",
                        mutation.path, mutation.mistake
                    )
                }),
            })
        })
        .buffer_unordered(CONCURRENCY)
        .try_collect()
        .await?;
    Ok(complaints.into_iter().flatten().collect())
}
