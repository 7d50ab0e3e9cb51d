//! YAML as people read it in a diff: keys in order, long texts folded, whole numbers without a fraction.

use serde::Serialize;
use serde_json::{Number, Value};

/// Why a value could not be written as YAML.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It is not a JSON value.
    #[error("cannot read it as JSON")]
    Json(#[from] serde_json::Error),
    /// The YAML writer refuses it.
    #[error("cannot write it as YAML")]
    Yaml(#[from] serde_saphyr::ser::Error),
}

/// `value` as a YAML document, without a `---` before it.
pub fn write(value: &impl Serialize) -> Result<String, Error> {
    let mut value = serde_json::to_value(value)?;
    whole_numbers(&mut value);
    let options = serde_saphyr::ser_options! { folded_wrap_chars: 110 };
    Ok(serde_saphyr::to_string_with_options(&value, options)?)
}

/// `JSONSchemaProps` holds bounds as floats; `maximum: 86400.0` is written as `86400`.
fn whole_numbers(value: &mut Value) {
    match value {
        Value::Number(number) => {
            if let Some(whole) = number
                .as_f64()
                .filter(|n| number.is_f64() && n.fract() == 0.0)
                .and_then(|n| format!("{n:.0}").parse::<i64>().ok())
            {
                *number = Number::from(whole);
            }
        }
        Value::Array(items) => items.iter_mut().for_each(whole_numbers),
        Value::Object(fields) => fields.values_mut().for_each(whole_numbers),
        Value::Null | Value::Bool(_) | Value::String(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn bounds_are_written_as_whole_numbers() {
        let text = write(&json!({ "maximum": 86400.0, "half": 0.5 })).unwrap();
        assert_eq!(text, "half: 0.5\nmaximum: 86400\n");
    }

    #[test]
    fn what_is_written_is_read_back_unchanged() {
        for crd in gridstake_crds::all_crds() {
            let text = write(&crd).unwrap();
            let back: serde_json::Value = serde_saphyr::from_str(&text).unwrap();
            let mut expected = serde_json::to_value(&crd).unwrap();
            whole_numbers(&mut expected);
            assert_eq!(back, expected, "{}", crd.spec.names.kind);
        }
    }
}
