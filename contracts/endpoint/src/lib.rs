//! The HTTP below alloy: one request, one answer, which is bounded in size. alloy's own reads whatever comes, so an endpoint
//! that answers without end would take all memory.

use std::task;

use alloy::{
    rpc::json_rpc::{RequestPacket, ResponsePacket},
    transports::{TransportError, TransportErrorKind, TransportFut},
};
use reqwest::{Client, Response, Url, header::CONTENT_TYPE};
use tower_service::Service;

/// An answer is larger than what is read of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the answer is larger than {most} bytes")]
pub struct TooLarge {
    /// How much is read, in bytes.
    pub most: usize,
}

/// Why a body was not read.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// It is too large.
    #[error(transparent)]
    TooLarge(#[from] TooLarge),
    /// The connection failed.
    #[error(transparent)]
    Http(#[from] reqwest::Error),
}

/// The body of `answer`, if it has no more than `most` bytes. No more than that, and what was on its way, is ever held.
///
/// # Errors
/// It is larger, or the connection failed.
pub async fn read(mut answer: Response, most: usize) -> Result<Vec<u8>, BodyError> {
    let too_large = TooLarge { most };
    let said = answer.content_length().unwrap_or(0);
    if usize::try_from(said).map_or(true, |said| said > most) {
        return Err(too_large.into());
    }
    let mut body = Vec::new();
    while let Some(part) = answer.chunk().await? {
        if part.len() > most - body.len() {
            return Err(too_large.into());
        }
        body.extend_from_slice(&part);
    }
    Ok(body)
}

/// Whether an answer was larger than what is read of one.
#[must_use]
pub fn is_too_large(error: &TransportError) -> bool {
    match error {
        TransportError::Transport(TransportErrorKind::Custom(error)) => error.is::<TooLarge>(),
        _ => false,
    }
}

/// Asks one endpoint.
#[derive(Clone, Debug)]
pub struct BoundedHttp {
    http: Client,
    url: Url,
    most: usize,
}

impl BoundedHttp {
    /// Asks the endpoint at `url` by `http`, which bounds the time, and reads no more than `most` bytes of an answer.
    #[must_use]
    pub const fn new(http: Client, url: Url, most: usize) -> Self {
        Self { http, url, most }
    }

    async fn ask(self, request: RequestPacket) -> Result<ResponsePacket, TransportError> {
        let body = serde_json::to_vec(&request).map_err(TransportError::ser_err)?;
        let answer = self
            .http
            .post(self.url)
            .header(CONTENT_TYPE, "application/json")
            .headers(request.headers())
            .body(body)
            .send()
            .await
            .map_err(TransportErrorKind::custom)?;
        let status = answer.status();
        let body = match read(answer, self.most).await {
            Ok(body) => body,
            // An error of HTTP is one whatever comes with it.
            Err(_) if !status.is_success() => Vec::new(),
            Err(BodyError::TooLarge(error)) => return Err(TransportErrorKind::custom(error)),
            Err(BodyError::Http(error)) => return Err(TransportErrorKind::custom(error)),
        };
        let words = || String::from_utf8_lossy(&body).into_owned();
        let read = serde_json::from_slice::<ResponsePacket>(&body);
        if status.is_success() {
            return read.map_err(|error| TransportError::deser_err(error, words()));
        }
        match read {
            // Some nodes say so of an error of JSON-RPC.
            Ok(answer) if answer.is_error() => Ok(answer),
            _ => Err(TransportErrorKind::http_error(status.as_u16(), words())),
        }
    }
}

impl Service<RequestPacket> for BoundedHttp {
    type Response = ResponsePacket;
    type Error = TransportError;
    type Future = TransportFut<'static>;

    fn poll_ready(&mut self, _: &mut task::Context<'_>) -> task::Poll<Result<(), Self::Error>> {
        task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: RequestPacket) -> Self::Future {
        Box::pin(self.clone().ask(request))
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use alloy::{
        providers::{Provider as _, ProviderBuilder},
        rpc::client::RpcClient,
    };
    use axum::{Router, body::Body};
    use tokio::net::TcpListener;

    use super::*;

    /// An endpoint that answers everything with `body`.
    async fn endpoint(body: impl Fn() -> Body + Clone + Send + Sync + 'static) -> Url {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let routes = Router::new().fallback(move || {
            let body = body();
            async move { body }
        });
        tokio::spawn(async move { axum::serve(listener, routes).await.unwrap() });
        format!("http://{address}").parse().unwrap()
    }

    async fn ask(url: Url, most: usize) -> Result<u64, TransportError> {
        // Whichever test comes first installs it.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = Client::builder()
            .tls_certs_only([])
            .no_proxy()
            .build()
            .unwrap();
        let transport = BoundedHttp::new(http, url, most);
        let provider = ProviderBuilder::new()
            .disable_recommended_fillers()
            .connect_client(RpcClient::new(transport, false));
        provider.get_chain_id().await
    }

    #[tokio::test]
    async fn an_answer_is_read_up_to_its_bound_and_no_further() {
        let text = r#"{"jsonrpc":"2.0","id":0,"result":"0x2105"}"#;
        let url = endpoint(move || Body::from(text)).await;
        assert_eq!(ask(url.clone(), text.len()).await.unwrap(), 8453);
        let error = ask(url, text.len() - 1).await.unwrap_err();
        assert!(is_too_large(&error), "{error}");
    }

    #[tokio::test]
    async fn an_answer_without_an_end_is_left() {
        let url = endpoint(|| {
            let parts = std::iter::repeat_with(|| Ok::<_, Infallible>(vec![b'0'; 1000]));
            Body::from_stream(futures::stream::iter(parts))
        })
        .await;
        let error = ask(url, 1 << 20).await.unwrap_err();
        assert!(is_too_large(&error), "{error}");
    }
}
