//! What a certificate's signature is over.

use super::Certificate;
use crate::typed::AgentKey;

/// The statement that the provider's operator signed, for the vault's domain.
#[must_use]
pub fn certificate_statement(certificate: &Certificate) -> AgentKey {
    AgentKey {
        provider: certificate.provider,
        node: certificate.node.clone(),
        key: certificate.key,
        epoch: certificate.epoch,
        notAfter: certificate.not_after,
    }
}
