//! The operator's own HTTP server: `/livez`, `/readyz` and `/metrics`.

use std::{net::SocketAddr, time::Instant};

use axum::{Router, extract::State, http::StatusCode, routing::get};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{health::Health, metrics::Metrics};

/// Why the server does not run.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// The address cannot be listened on.
    #[error("listen on {address}")]
    Listen {
        /// The address, from `--listen`.
        address: SocketAddr,
        /// What the system says.
        #[source]
        source: std::io::Error,
    },
    /// The server ended.
    #[error("serve HTTP")]
    Serve(#[source] std::io::Error),
}

#[derive(Clone)]
struct Shared {
    health: Health,
    metrics: Metrics,
}

/// Binds `address`.
pub async fn bind(address: SocketAddr) -> Result<TcpListener, HttpError> {
    TcpListener::bind(address)
        .await
        .map_err(|source| HttpError::Listen { address, source })
}

/// Serves until `stop`.
pub async fn serve(
    listener: TcpListener,
    health: Health,
    metrics: Metrics,
    stop: CancellationToken,
) -> Result<(), HttpError> {
    axum::serve(listener, router(health, metrics))
        .with_graceful_shutdown(stop.cancelled_owned())
        .await
        .map_err(HttpError::Serve)
}

fn router(health: Health, metrics: Metrics) -> Router {
    Router::new()
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/metrics", get(render_metrics))
        .with_state(Shared { health, metrics })
}

async fn livez(State(shared): State<Shared>) -> (StatusCode, String) {
    verdict(&shared.health.not_live(Instant::now()))
}

async fn readyz(State(shared): State<Shared>) -> (StatusCode, String) {
    verdict(&shared.health.not_ready())
}

async fn render_metrics(State(shared): State<Shared>) -> (StatusCode, String) {
    match shared.metrics.render() {
        Ok(text) => (StatusCode::OK, text),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}

fn verdict(objections: &[String]) -> (StatusCode, String) {
    if objections.is_empty() {
        (StatusCode::OK, "ok\n".to_owned())
    } else {
        (
            StatusCode::SERVICE_UNAVAILABLE,
            format!("{}\n", objections.join("\n")),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objections_are_listed_line_by_line_with_503() {
        let (status, text) = verdict(&["a".to_owned(), "b".to_owned()]);
        assert_eq!((status.as_u16(), text.as_str()), (503, "a\nb\n"));
        assert_eq!(verdict(&[]).0, StatusCode::OK);
    }
}
