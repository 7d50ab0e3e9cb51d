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

/// A 65-byte secp256k1 signature (r, s, v): `0x` and 130 hexadecimal digits in lower case.
#[must_use]
pub fn signature(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "string",
        "maxLength": 132,
        "x-kubernetes-validations": [{
            "rule": "self.matches('^0x[0-9a-f]{130}$')",
            "message": "write a 65-byte signature: 0x and 130 hexadecimal digits in lower case",
        }],
    })
}

/// A whole number of up to 256 bits, in decimal: more than JSON's integers hold.
#[must_use]
pub fn big_integer(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "string",
        "maxLength": 78,
        "x-kubernetes-validations": [{
            "rule": "self.matches('^(0|[1-9][0-9]*)$')",
            "message": "write a whole number in decimal, without sign, point or exponent, such as \"30000000000\"",
        }],
    })
}

/// Labels that must all be there with these values: at most 16.
#[must_use]
pub fn match_labels(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "minProperties": 1,
        "maxProperties": 16,
        "additionalProperties": { "type": "string", "maxLength": 63 },
    })
}

/// A LabelSelector with bounds.
#[must_use]
pub fn label_selector(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "x-kubernetes-map-type": "atomic",
        "properties": {
            "matchLabels": {
                "description": "Labels that must all be there with these values.",
                "type": "object",
                "maxProperties": 16,
                "additionalProperties": { "type": "string", "maxLength": 63 },
            },
            "matchExpressions": {
                "description": "Expressions that must all hold.",
                "type": "array",
                "maxItems": 16,
                "x-kubernetes-list-type": "atomic",
                "items": {
                    "description": "One expression.",
                    "type": "object",
                    "required": ["key", "operator"],
                    "properties": {
                        "key": { "description": "The label's key.", "type": "string", "minLength": 1, "maxLength": 316 },
                        "operator": {
                            "description": "How the label's value relates to `values`.",
                            "type": "string",
                            "enum": ["In", "NotIn", "Exists", "DoesNotExist"],
                        },
                        "values": {
                            "description": "The values for `In` and `NotIn`.",
                            "type": "array",
                            "maxItems": 64,
                            "x-kubernetes-list-type": "atomic",
                            "items": { "type": "string", "maxLength": 63 },
                        },
                    },
                    "x-kubernetes-validations": [{
                        "rule": "self.operator in ['In', 'NotIn'] ? has(self.values) && self.values.size() > 0 : !has(self.values) || self.values.size() == 0",
                        "message": "operators In and NotIn need values; Exists and DoesNotExist take none",
                    }],
                },
            },
        },
    })
}

/// Conditions: a list by `type`, with the bounds of Kubernetes' own Condition.
#[must_use]
pub fn conditions(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": 16,
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["type"],
        "items": {
            "description": "One fact about the object.",
            "type": "object",
            "required": ["type", "status", "reason", "message", "lastTransitionTime"],
            "properties": {
                "type": { "description": "Which fact.", "type": "string", "minLength": 1, "maxLength": 63 },
                "status": {
                    "description": "Whether it holds. `Unknown`: not known yet, or not any more.",
                    "type": "string",
                    "enum": ["True", "False", "Unknown"],
                },
                "reason": {
                    "description": "Why, in one word, for programs.",
                    "type": "string",
                    "minLength": 1,
                    "maxLength": 63,
                    "pattern": "^[A-Z][A-Za-z0-9]*$",
                },
                "message": { "description": "Why, for people.", "type": "string", "maxLength": 4096 },
                "lastTransitionTime": {
                    "description": "When the status last changed.",
                    "type": "string",
                    "format": "date-time",
                },
                "observedGeneration": {
                    "description": "The generation of the object that the fact speaks about.",
                    "type": "integer",
                    "format": "int64",
                    "minimum": 0,
                },
            },
        },
    })
}
