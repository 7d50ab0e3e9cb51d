//! Schemas that several kinds share, where the generated one would be too wide.

use schemars::{Schema, SchemaGenerator, json_schema};

/// A positive duration in Go's syntax, limited to whole units: `"90s"`, `"1h30m"`.
#[must_use]
pub fn duration(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "string",
        "maxLength": 32,
        "x-kubernetes-validations": [{
            "rule": "self.matches('^([0-9]{1,6}h)?([0-9]{1,6}m)?([0-9]{1,7}s)?$') && self.matches('[1-9]')",
            "message": "write a positive duration in hours, minutes and seconds, such as \"90s\", \"10m\" or \"1h30m\"",
        }],
    })
}

/// An EVM address: `0x` and 40 hexadecimal digits.
#[must_use]
pub fn address(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "string",
        "maxLength": 42,
        "x-kubernetes-validations": [{
            "rule": "self.matches('^0x[0-9a-fA-F]{40}$')",
            "message": "write an EVM address: 0x and 40 hexadecimal digits",
        }],
    })
}

/// A 32-byte hash: `0x` and 64 hexadecimal digits in lower case.
#[must_use]
pub fn hash(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "string",
        "maxLength": 66,
        "x-kubernetes-validations": [{
            "rule": "self.matches('^0x[0-9a-f]{64}$')",
            "message": "write a 32-byte hash: 0x and 64 hexadecimal digits in lower case",
        }],
    })
}
