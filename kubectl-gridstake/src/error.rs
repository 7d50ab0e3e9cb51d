//! What can go wrong, in words for people.

use std::error::Error as StdError;

use crate::{end::EndFault, key::KeyError, money::MoneyError};

/// Why a command did nothing.
#[derive(Debug, thiserror::Error)]
pub enum PluginError {
    /// The runtime does not start.
    #[error("start the runtime")]
    Runtime(#[source] std::io::Error),
    /// The key cannot be used.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// Something would end before it begins.
    #[error(transparent)]
    End(#[from] EndFault),
    /// It is not known which cluster is meant, or how to reach it.
    #[error("find the cluster: set KUBECONFIG, or a current context in the kubeconfig")]
    Cluster(#[source] Box<dyn StdError + Send + Sync>),
    /// The object that a flag names is not there.
    #[error("{flag}: there is no {kind} {name}: `kubectl get {plural}` lists them")]
    Missing {
        /// The flag.
        flag: &'static str,
        /// What the object is.
        kind: &'static str,
        /// Its kind as kubectl lists it.
        plural: String,
        /// Its name.
        name: String,
    },
    /// The API server does not show it.
    #[error("read {what}")]
    Read {
        /// The object.
        what: String,
        /// What it says.
        #[source]
        source: Box<kube::Error>,
    },
    /// An object is not as it must be.
    #[error("{0}")]
    Unfit(String),
    /// A report cannot be written as asked for.
    #[error("write the result: use another --output")]
    Output(#[source] Box<dyn StdError + Send + Sync>),
    /// Nobody can be asked.
    #[error("ask on the terminal: use --yes")]
    Terminal(#[source] std::io::Error),
    /// Money was not moved, or is not known to have been.
    #[error(transparent)]
    Money(Box<MoneyError>),
    /// The API server does not let it be written.
    #[error("write {what} (--dry-run prints the command for somebody who may)")]
    Write {
        /// The object.
        what: String,
        /// What it says.
        #[source]
        source: Box<kube::Error>,
    },
}

/// The error and its causes in one line, outermost first. A cause that stands in the line already, as those of the
/// kube crate may, is not repeated.
#[must_use]
pub fn chain(error: &(dyn StdError + 'static)) -> String {
    let mut line = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let (words, is_last) = words(cause);
        if !line.contains(&words) {
            line.push_str(": ");
            line.push_str(&words);
        }
        next = cause.source().filter(|_| !is_last);
    }
    line
}

/// What a cause says, and whether that is all: the API server's own words are, which kube repeats in debug form.
fn words(cause: &(dyn StdError + 'static)) -> (String, bool) {
    let api = cause.downcast_ref::<kube::Error>().or_else(|| {
        cause
            .downcast_ref::<Box<kube::Error>>()
            .map(std::convert::AsRef::as_ref)
    });
    match api {
        Some(kube::Error::Api(status)) => (status.message.clone(), true),
        _ => (cause.to_string(), false),
    }
}

#[cfg(test)]
mod tests {
    use kube::core::Status;

    use super::*;

    #[test]
    fn the_api_servers_words_are_told_once() {
        let refused = Status::failure("namespaces \"team\" is forbidden", "Forbidden");
        let error = PluginError::Write {
            what: "the annotations of namespace team".to_owned(),
            source: Box::new(kube::Error::Api(Box::new(refused))),
        };
        assert_eq!(
            chain(&error),
            "write the annotations of namespace team (--dry-run prints the command for somebody who may): namespaces \"team\" is forbidden"
        );
    }

    #[test]
    fn a_cause_that_stands_in_the_line_already_is_not_repeated() {
        let refused = std::io::Error::other(std::io::Error::other("connection refused"));
        let error = PluginError::Read {
            what: "namespace team".to_owned(),
            source: Box::new(kube::Error::Service(Box::new(refused))),
        };
        let words = chain(&error);
        assert!(words.starts_with("read namespace team: "), "{words}");
        assert_eq!(words.matches("connection refused").count(), 1, "{words}");
    }

    #[test]
    fn an_object_that_is_not_there_is_named_with_its_flag_and_where_to_look() {
        let error = PluginError::Missing {
            flag: "--namespace",
            kind: "namespace",
            plural: "namespaces".to_owned(),
            name: "team".to_owned(),
        };
        assert_eq!(
            chain(&error),
            "--namespace: there is no namespace team: `kubectl get namespaces` lists them"
        );
    }
}
