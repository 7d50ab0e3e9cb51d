//! What goes wrong with a chain's endpoint, in words that never hold an endpoint's address: it may hold a token.

use alloy::{
    primitives::Bytes,
    rpc::json_rpc::ErrorPayload,
    transports::{RpcError, TransportError, TransportErrorKind},
};
use gridstake_endpoint::TooLarge;

/// How much of an endpoint's own words is repeated.
const WORDS: usize = 300;

/// Why a request came to nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RpcFailure {
    /// There was no answer in time: whatever was asked for may have been done.
    #[error("no answer in time")]
    Timeout,
    /// The endpoint cannot be reached.
    #[error("cannot connect to the endpoint")]
    Connect,
    /// The endpoint answered with an error of HTTP.
    #[error("the endpoint answered with HTTP status {0}")]
    Http(u16),
    /// The endpoint answered with an error of JSON-RPC.
    #[error("the endpoint refused: {message} ({code})")]
    Refused {
        /// Its code.
        code: i64,
        /// Its words.
        message: String,
    },
    /// The contract reverted.
    #[error("the contract reverted with {data}")]
    Reverted {
        /// What it returned: an encoded error, or nothing.
        data: Bytes,
    },
    /// The endpoint does not have what was asked for, such as a block that it has not seen yet.
    #[error("the endpoint does not have {0}")]
    Missing(&'static str),
    /// The endpoint serves the chain with this id, not ours.
    #[error("the endpoint serves the chain {0}")]
    OtherChain(u64),
    /// What the endpoint says of a thing cannot be: it contradicts what is known.
    #[error("what the endpoint says of {0} contradicts what is known")]
    Contradicts(&'static str),
    /// The answer is larger than what is read of one.
    #[error("the answer is larger than {most} bytes")]
    TooLarge {
        /// How much is read, in bytes.
        most: usize,
    },
    /// The answer makes no sense.
    #[error("the answer cannot be read: {0}")]
    Unreadable(String),
    /// Something else between here and the endpoint.
    #[error("the request failed: {0}")]
    Other(String),
}

impl RpcFailure {
    /// A static word for metrics.
    #[must_use]
    pub const fn category(&self) -> &'static str {
        match self {
            Self::Timeout => "timeout",
            Self::Connect => "connect",
            Self::Http(_) => "http",
            Self::Refused { .. } => "refused",
            Self::Reverted { .. } => "reverted",
            Self::Missing(_) => "missing",
            Self::OtherChain(_) => "other_chain",
            Self::Contradicts(_) => "contradicts",
            Self::TooLarge { .. } => "too_large",
            Self::Unreadable(_) => "unreadable",
            Self::Other(_) => "other",
        }
    }

    /// Whether another endpoint would say the same: the contract itself has spoken.
    #[must_use]
    pub const fn is_final(&self) -> bool {
        matches!(self, Self::Reverted { .. })
    }
}

impl From<TransportError> for RpcFailure {
    fn from(error: TransportError) -> Self {
        match error {
            RpcError::ErrorResp(payload) => refused(&payload),
            RpcError::NullResp => Self::Missing("an answer"),
            RpcError::DeserError { err, .. } => Self::Unreadable(cut(&err.to_string())),
            RpcError::Transport(kind) => transport(&kind),
            RpcError::UnsupportedFeature(what) => Self::Other(what.to_owned()),
            RpcError::LocalUsageError(error) => Self::Other(cut(&error.to_string())),
            RpcError::SerError(error) => Self::Other(cut(&error.to_string())),
        }
    }
}

fn refused(payload: &ErrorPayload) -> RpcFailure {
    if let Some(data) = payload.as_revert_data() {
        return RpcFailure::Reverted { data };
    }
    // Code 3 is geth's for a revert; some nodes send a revert without its data.
    if payload.code == 3 || payload.message.contains("execution reverted") {
        return RpcFailure::Reverted { data: Bytes::new() };
    }
    RpcFailure::Refused {
        code: payload.code,
        message: cut(&payload.message),
    }
}

fn transport(kind: &TransportErrorKind) -> RpcFailure {
    match kind {
        TransportErrorKind::HttpError(error)
        | TransportErrorKind::HttpErrorWithRetryAfter { error, .. } => {
            RpcFailure::Http(error.status)
        }
        TransportErrorKind::Custom(error) | TransportErrorKind::NonRetryable(error) => {
            if let Some(TooLarge { most }) = error.downcast_ref() {
                return RpcFailure::TooLarge { most: *most };
            }
            match error.downcast_ref::<reqwest::Error>() {
                Some(error) if error.is_timeout() => RpcFailure::Timeout,
                Some(error) if error.is_connect() => RpcFailure::Connect,
                Some(error) if error.is_body() || error.is_decode() => {
                    RpcFailure::Unreadable("the body ended early".to_owned())
                }
                // The words of reqwest hold the endpoint's address.
                Some(_) => RpcFailure::Other("HTTP".to_owned()),
                None => RpcFailure::Other(cut(&error.to_string())),
            }
        }
        other => RpcFailure::Other(cut(&other.to_string())),
    }
}

fn cut(words: &str) -> String {
    words[..words.floor_char_boundary(WORDS)].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(json: &str) -> RpcFailure {
        let payload: ErrorPayload = serde_json::from_str(json).unwrap();
        RpcError::ErrorResp(payload).into()
    }

    #[test]
    fn a_revert_is_told_from_a_refusal() {
        assert_eq!(
            answer(r#"{"code":3,"message":"execution reverted","data":"0x0102"}"#),
            RpcFailure::Reverted {
                data: Bytes::from_static(&[1, 2])
            }
        );
        assert_eq!(
            answer(r#"{"code":-32000,"message":"execution reverted"}"#),
            RpcFailure::Reverted { data: Bytes::new() }
        );
        let refused = answer(r#"{"code":-32000,"message":"header not found"}"#);
        assert!(
            matches!(&refused, RpcFailure::Refused { message, .. } if message == "header not found")
        );
        assert!(!refused.is_final());
    }

    #[test]
    fn an_answer_that_is_too_large_is_told_from_one_that_makes_no_sense() {
        let failure = RpcFailure::from(TransportErrorKind::custom(TooLarge { most: 5 }));
        assert_eq!(failure, RpcFailure::TooLarge { most: 5 });
        assert_eq!(failure.category(), "too_large");
        assert!(!failure.is_final());
    }

    #[test]
    fn an_http_error_has_its_status() {
        let error = TransportErrorKind::http_error(503, "https://host/token".to_owned());
        assert_eq!(RpcFailure::from(error), RpcFailure::Http(503));
    }
}
