//! What `gridstake-device-agent measure` says about the GPUs that it has timed: a line of JSON in its termination message, which
//! the operator reads from the pod. Only the two of them use it; what becomes of it stands in `status.performance` of the GpuNode.

use serde::{Deserialize, Serialize};

/// The version of what is measured and how. A figure of another version says nothing about one of this.
pub const MEASUREMENT_VERSION: u32 = 1;

/// The exit code of a measurement on a GPU that calculates wrong. Any other but 0 says nothing about the GPUs.
pub const WRONG_RESULT_EXIT_CODE: i32 = 65;

/// How many GPUs a measurement can tell of: the kubelet keeps 4096 bytes of a termination message, and one takes up to 113.
pub const MOST_MEASURED_GPUS: u32 = 32;

/// What was measured.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Measurement {
    /// [`MEASUREMENT_VERSION`].
    pub version: u32,
    /// The GPUs that the program saw.
    pub gpus: Vec<GpuMeasurement>,
}

/// What was measured of one GPU: medians of several runs, rounded down.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct GpuMeasurement {
    /// Its UUID, as NVML writes it.
    pub uuid: String,
    /// Single precision, fused multiply-adds counted as two: 10⁹ operations a second.
    pub fp32_gflops: u64,
    /// Copies within its memory, what is read and what is written: 10⁹ bytes a second.
    #[serde(rename = "memoryGBs")]
    pub memory_gbs: u64,
    /// Whether it calculated and copied what it should.
    pub digest_ok: bool,
}

impl Measurement {
    /// Reads a termination message; `None` if it is none of this version's, or tells of more GPUs than a node has.
    #[must_use]
    pub fn read(message: &str) -> Option<Self> {
        let measurement: Self = serde_json::from_str(message.trim()).ok()?;
        let is_sound = measurement.version == MEASUREMENT_VERSION
            && measurement.gpus.len() <= 64
            && measurement.gpus.iter().all(|gpu| gpu.uuid.len() <= 63);
        is_sound.then_some(measurement)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(gpus: u32) -> Measurement {
        Measurement {
            version: MEASUREMENT_VERSION,
            gpus: (0..gpus)
                .map(|number| GpuMeasurement {
                    uuid: format!("GPU-00000000-0000-5000-8000-{number:012}"),
                    fp32_gflops: 1_999_999,
                    memory_gbs: 199_999,
                    digest_ok: false,
                })
                .collect(),
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let text = r#"{"version":1,"gpus":[{"uuid":"GPU-a","fp32Gflops":61000,"memoryGBs":3000,"digestOk":true}]}"#;
        let read = Measurement::read(text).unwrap();
        assert_eq!(serde_json::to_string(&read).unwrap(), text);
        assert_eq!(read.gpus[0].memory_gbs, 3000);
    }

    #[test]
    fn another_version_and_other_words_are_no_measurement() {
        for text in [
            "",
            "cannot load libcuda.so.1",
            r#"{"version":2,"gpus":[]}"#,
            r#"{"version":1}"#,
        ] {
            assert_eq!(Measurement::read(text), None, "{text}");
        }
    }

    #[test]
    fn as_many_gpus_as_a_measurement_may_have_fit_into_a_termination_message() {
        let text = serde_json::to_string(&of(MOST_MEASURED_GPUS)).unwrap();
        assert!(text.len() <= 4096, "{}", text.len());
    }
}
