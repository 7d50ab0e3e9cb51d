//! 65-byte secp256k1 signatures (r, s, v), as wallets make them.

use alloy_primitives::{Address, B256, Signature, hex};

/// Why a signature cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignatureFault {
    /// It is not 65 bytes in hexadecimal.
    #[error("write a 65-byte signature: 0x and 130 hexadecimal digits")]
    Format,
    /// Its values are out of range.
    #[error("the signature's values are out of range: it was cut off or changed")]
    Values,
}

/// Reads `0x` and 130 hexadecimal digits. A high s is made low, as OpenZeppelin's ECDSA wants it.
pub fn parse(text: &str) -> Result<Signature, SignatureFault> {
    let digits = text.strip_prefix("0x").ok_or(SignatureFault::Format)?;
    let bytes: [u8; 65] = hex::decode(digits)
        .ok()
        .and_then(|bytes| bytes.try_into().ok())
        .ok_or(SignatureFault::Format)?;
    // Other values would be read as those of EIP-155, which no typed data has.
    if !matches!(bytes, [.., 0 | 1 | 27 | 28]) {
        return Err(SignatureFault::Values);
    }
    let signature = Signature::from_raw_array(&bytes).map_err(|_| SignatureFault::Values)?;
    Ok(signature.normalize_s().unwrap_or(signature))
}

/// `0x` and 130 hexadecimal digits in lower case, v as 27 or 28.
#[must_use]
pub fn text(signature: &Signature) -> String {
    hex::encode_prefixed(signature.as_bytes())
}

/// Who signed `digest`.
pub fn signer(digest: B256, signature: &Signature) -> Result<Address, SignatureFault> {
    signature
        .recover_address_from_prehash(&digest)
        .map_err(|_| SignatureFault::Values)
}

/// The compact form (ERC-2098) that the contracts take: r, and s with the parity in its highest bit.
#[must_use]
pub fn compact(signature: &Signature) -> (B256, B256) {
    let bytes = signature.normalize_s().unwrap_or(*signature).as_erc2098();
    let (r, vs) = bytes.split_at(32);
    (B256::from_slice(r), B256::from_slice(vs))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From the specification of ERC-2098.
    const SIGNATURE: &str = "0x68a020a209d3d56c46f38cc50a33f704f4a9a10a59377f8dd762ac66910e9b907e865ad05c4035ab5792787d4a0297a43617ae897930a6fe4d822b8faea520641b";

    #[test]
    fn a_signature_survives_being_read_and_written() {
        assert_eq!(text(&parse(SIGNATURE).unwrap()), SIGNATURE);
    }

    #[test]
    fn the_compact_form_is_that_of_the_specification() {
        let (r, vs) = compact(&parse(SIGNATURE).unwrap());
        assert_eq!(
            r.to_string(),
            "0x68a020a209d3d56c46f38cc50a33f704f4a9a10a59377f8dd762ac66910e9b90"
        );
        assert_eq!(
            vs.to_string(),
            "0x7e865ad05c4035ab5792787d4a0297a43617ae897930a6fe4d822b8faea52064"
        );
    }

    #[test]
    fn what_is_no_signature_is_refused() {
        for text in ["", "0x", "0x12", &SIGNATURE[2..], &format!("{SIGNATURE}00")] {
            assert_eq!(parse(text), Err(SignatureFault::Format), "{text}");
        }
        let wrong_parity = format!("{}63", &SIGNATURE[..130]);
        assert_eq!(parse(&wrong_parity), Err(SignatureFault::Values));
    }
}
