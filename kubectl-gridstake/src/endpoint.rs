//! A chain's JSON-RPC endpoint, and what goes wrong with it in words that never hold its address: it may hold a token.

use std::time::Duration;

use alloy::{
    primitives::Bytes,
    providers::{DynProvider, Provider as _, ProviderBuilder},
    rpc::{client::RpcClient, json_rpc::ErrorPayload},
    transports::{RpcError, TransportError, TransportErrorKind},
};
use gridstake_endpoint::BoundedHttp;

/// The largest answer of a chain's endpoint that is read, in bytes: several times what the events of as many blocks as are asked for
/// at once take. Nodes themselves answer with 25 MB (geth) or less.
const MOST_BYTES: usize = 32 << 20;

/// How much of an endpoint's own words is repeated, in bytes.
const WORDS: usize = 300;

/// The endpoint at `url`, without any filler of transactions; a request is given up after `patience`.
pub fn connect(url: &reqwest::Url, patience: Duration) -> Result<DynProvider, reqwest::Error> {
    let mut builder = reqwest::Client::builder()
        .timeout(patience)
        // A redirect could carry a signed transaction to a stranger.
        .redirect(reqwest::redirect::Policy::none());
    if url.scheme() == "http" {
        // Without TLS, no certificates need to be there.
        builder = builder.tls_certs_only([]);
    }
    let http = builder.build()?;
    let provider = ProviderBuilder::new()
        .disable_recommended_fillers()
        .connect_client(RpcClient::new(
            BoundedHttp::new(http, url.clone(), MOST_BYTES),
            false,
        ));
    Ok(provider.erased())
}

/// Why a request came to nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The contract reverted with this: an encoded error, or nothing.
    #[error("the contract reverted with {0}")]
    Reverted(Bytes),
    /// The endpoint answered with an error of its own.
    #[error("the endpoint refused: {0}")]
    Refused(String),
    /// There was no answer, or none that can be read: what was asked for may have been done.
    #[error("{0}")]
    NoAnswer(String),
}

impl From<TransportError> for Fault {
    fn from(error: TransportError) -> Self {
        match error {
            RpcError::ErrorResp(payload) => refused(&payload),
            RpcError::Transport(kind) => Self::NoAnswer(unanswered(&kind)),
            RpcError::NullResp => Self::NoAnswer("the endpoint has no answer".to_owned()),
            RpcError::DeserError { err, .. } => Self::NoAnswer(format!(
                "the answer cannot be read: {}",
                cut(&err.to_string())
            )),
            other => Self::NoAnswer(format!("the request failed: {}", cut(&other.to_string()))),
        }
    }
}

fn refused(payload: &ErrorPayload) -> Fault {
    if let Some(data) = payload.as_revert_data() {
        return Fault::Reverted(data);
    }
    // Code 3 is geth's for a revert; some nodes send a revert without its data.
    if payload.code == 3 || payload.message.contains("execution reverted") {
        return Fault::Reverted(Bytes::new());
    }
    Fault::Refused(cut(&payload.message))
}

fn unanswered(kind: &TransportErrorKind) -> String {
    match kind {
        TransportErrorKind::HttpError(error)
        | TransportErrorKind::HttpErrorWithRetryAfter { error, .. } => {
            format!("the endpoint answered with HTTP status {}", error.status)
        }
        TransportErrorKind::Custom(error) | TransportErrorKind::NonRetryable(error) => {
            match error.downcast_ref::<reqwest::Error>() {
                Some(error) if error.is_timeout() => "no answer in time".to_owned(),
                Some(error) if error.is_connect() => "cannot connect to the endpoint".to_owned(),
                // The words of reqwest hold the endpoint's address.
                Some(_) => "the request failed in HTTP".to_owned(),
                None => cut(&error.to_string()),
            }
        }
        other => cut(&other.to_string()),
    }
}

fn cut(words: &str) -> String {
    words[..words.floor_char_boundary(WORDS)].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(json: &str) -> Fault {
        let payload: ErrorPayload = serde_json::from_str(json).unwrap();
        RpcError::ErrorResp(payload).into()
    }

    #[test]
    fn a_revert_is_told_from_a_refusal() {
        assert_eq!(
            answer(r#"{"code":3,"message":"execution reverted","data":"0x0102"}"#),
            Fault::Reverted(Bytes::from_static(&[1, 2]))
        );
        assert_eq!(
            answer(r#"{"code":-32000,"message":"execution reverted"}"#),
            Fault::Reverted(Bytes::new())
        );
        assert_eq!(
            answer(r#"{"code":-32000,"message":"nonce too low"}"#),
            Fault::Refused("nonce too low".to_owned())
        );
    }

    #[test]
    fn an_error_of_http_says_its_status_and_not_the_endpoints_address() {
        let error = TransportErrorKind::http_error(503, "https://host/token".to_owned());
        let words = Fault::from(error).to_string();
        assert_eq!(words, "the endpoint answered with HTTP status 503");
    }
}
