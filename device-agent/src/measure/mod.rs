//! `gridstake-device-agent measure`: times the GPUs that the process is shown, and ends.
//!
//! It is what a canary job runs (docs/canary.md): a pod that was given GPUs as any other. It needs NVIDIA's driver library
//! `libcuda.so.1` and nothing else: no cluster, no rights, no image with a toolkit.
//!
//! Of each GPU, one after the other: a kernel of fused multiply-adds in single precision, whose result is compared with what the
//! CPU calculates, and copies within its memory, of which a sample is read back. Each is run twice unheeded, so that clocks are up
//! and code is made, and then several times, of which the median counts. Time is the process's monotonic clock, around the wait
//! for the device: not what the device says of itself.
//!
//! | ends with | when | the termination message is |
//! |---|---|---|
//! | 0 | every GPU was timed and calculates right | the figures, as a line of JSON |
//! | 65 | every GPU was timed, and one calculates wrong | the same |
//! | 1 | there is no library, no driver or no GPU; a call failed | what went wrong |

pub mod clocked;

use std::{fs, io::Write as _, path::PathBuf, process::ExitCode};

use clap::Parser;
use gridstake_crds::measurement::{
    GpuMeasurement, MEASUREMENT_VERSION, Measurement, WRONG_RESULT_EXIT_CODE,
};
use gridstake_cuda::{CudaError, Device, Driver};

use crate::outcome::chain;

/// Times the GPUs that this process is shown.
#[derive(Clone, Debug, Parser)]
#[command(name = "gridstake-device-agent measure", version, about)]
pub struct Args {
    /// Path of the driver's library; without it `libcuda.so.1` is searched for as dlopen does, and then where device plugins
    /// mount it.
    #[arg(long)]
    pub cuda_library: Option<PathBuf>,

    /// Where the result is written, beside the standard output: the kubelet reads it from there.
    #[arg(long, default_value = "/dev/termination-log")]
    pub termination_message: PathBuf,

    /// How many runs the median is taken of; from 1 to 99.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u8).range(1..=99))]
    pub rounds: u8,
}

/// Why nothing was measured.
#[derive(Debug, thiserror::Error)]
pub enum MeasureError {
    /// The driver cannot be used.
    #[error("use NVIDIA's driver")]
    Driver(#[source] CudaError),
    /// The driver is there and shows no GPU to this process.
    #[error("the driver shows no GPU: was the container given one, and is its runtime NVIDIA's?")]
    NoDevices,
    /// A GPU did not do what it was asked for.
    #[error("measure {uuid}")]
    Device {
        /// Which.
        uuid: String,
        /// What went wrong.
        #[source]
        source: CudaError,
    },
}

/// Measures, tells the result, and says how the process is to end.
#[must_use]
pub fn run(args: &Args) -> ExitCode {
    let (text, code) = match measure(args) {
        Ok(measurement) => {
            let is_right = measurement.gpus.iter().all(|gpu| gpu.digest_ok);
            match serde_json::to_string(&measurement) {
                Ok(text) if is_right => (text, ExitCode::SUCCESS),
                Ok(text) => (text, wrong_result()),
                Err(error) => (chain(&error), ExitCode::FAILURE),
            }
        }
        Err(error) => (chain(&error), ExitCode::FAILURE),
    };
    // Whoever runs it by hand has no such file, or may not write it.
    if let Err(error) = fs::write(&args.termination_message, &text) {
        eprintln!(
            "cannot write {}: {error}",
            args.termination_message.display()
        );
    }
    // A closed pipe changes nothing about the result.
    let _ = writeln!(std::io::stdout(), "{text}");
    code
}

fn wrong_result() -> ExitCode {
    u8::try_from(WRONG_RESULT_EXIT_CODE).map_or(ExitCode::FAILURE, ExitCode::from)
}

fn measure(args: &Args) -> Result<Measurement, MeasureError> {
    let of_driver = |error: CudaError| {
        if error.is_no_device() {
            MeasureError::NoDevices
        } else {
            MeasureError::Driver(error)
        }
    };
    let driver = Driver::open(args.cuda_library.as_deref()).map_err(of_driver)?;
    let devices = driver.devices().map_err(of_driver)?;
    if devices.is_empty() {
        return Err(MeasureError::NoDevices);
    }
    let mut expected = clocked::Expected::default();
    let gpus = devices
        .iter()
        .map(|device| of_device(device, args.rounds, &mut expected))
        .collect::<Result<_, _>>()?;
    Ok(Measurement {
        version: MEASUREMENT_VERSION,
        gpus,
    })
}

fn of_device(
    device: &Device<'_>,
    rounds: u8,
    expected: &mut clocked::Expected,
) -> Result<GpuMeasurement, MeasureError> {
    let uuid = device.uuid().map_err(MeasureError::Driver)?;
    let figures =
        clocked::figures(device, rounds, expected).map_err(|source| MeasureError::Device {
            uuid: uuid.clone(),
            source,
        })?;
    Ok(GpuMeasurement {
        uuid,
        fp32_gflops: figures.fp32_gflops,
        memory_gbs: figures.memory_gbs,
        digest_ok: figures.is_right,
    })
}
