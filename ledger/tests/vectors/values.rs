//! Numbers as decimal strings and bytes in hexadecimal: what both sides read without loss.

use std::{fs, path::PathBuf};

use alloy_primitives::{B256, hex};
use gridstake_ledger::{batch::Entry, statement::Statement};
use serde_json::{Value, json};

/// Where a file of vectors is.
pub(crate) fn path(name: &str) -> PathBuf {
    PathBuf::from(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../contracts/test/vectors"
    ))
    .join(name)
}

pub(crate) fn read(name: &str) -> String {
    let path = path(name);
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// One string a value.
pub(crate) fn numbers<N: ToString>(values: impl IntoIterator<Item = N>) -> Value {
    values.into_iter().map(|value| value.to_string()).collect()
}

pub(crate) fn bytes(data: impl AsRef<[u8]>) -> Value {
    json!(hex::encode_prefixed(data))
}

pub(crate) fn hashes_of(values: impl IntoIterator<Item = B256>) -> Value {
    values.into_iter().map(bytes).collect()
}

/// One list a field, since that is what forge reads most easily.
pub(crate) fn entries(entries: &[Entry]) -> Value {
    json!({
        "jobNo": numbers(entries.iter().map(|e| e.job_no)),
        "payer": numbers(entries.iter().map(|e| e.payer)),
        "provider": numbers(entries.iter().map(|e| e.provider)),
        "price": numbers(entries.iter().map(|e| e.price)),
        "units": numbers(entries.iter().map(|e| e.units)),
    })
}

/// The same of statements.
pub(crate) fn statements(statements: &[Statement]) -> Value {
    json!({
        "kind": numbers(statements.iter().map(|s| s.kind)),
        "number": numbers(statements.iter().map(|s| s.number)),
        "subject": hashes_of(statements.iter().map(|s| s.subject)),
        "content": hashes_of(statements.iter().map(|s| s.content)),
    })
}

/// The value at a JSON pointer as a string.
fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value
        .pointer(pointer)
        .and_then(Value::as_str)
        .unwrap_or_else(|| panic!("no string at {pointer}"))
}

pub(crate) fn number<N: TryFrom<u128>>(value: &Value, pointer: &str) -> N {
    let number: u128 = text(value, pointer).parse().unwrap();
    N::try_from(number).unwrap_or_else(|_| panic!("{pointer}: {number} is out of range"))
}

pub(crate) fn hash(value: &Value, pointer: &str) -> B256 {
    text(value, pointer).parse().unwrap()
}

pub(crate) fn data(value: &Value, pointer: &str) -> Vec<u8> {
    hex::decode(text(value, pointer)).unwrap()
}

pub(crate) fn list<'a>(value: &'a Value, pointer: &str) -> &'a [Value] {
    value
        .pointer(pointer)
        .and_then(Value::as_array)
        .unwrap_or_else(|| panic!("no list at {pointer}"))
}
