//! One NVML call: its name, how it failed, and whether it has returned.

use std::{
    fmt,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use nvml_wrapper::error::NvmlError;
use prometheus::IntCounterVec;

/// What a failed call says about the device or the driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureKind {
    /// The device or driver does not offer this value. Nothing is wrong.
    NotAvailable,
    /// The device is gone, or is of no use until it is reset.
    Lost,
    /// The driver behind the library is gone or another; NVML must be opened anew.
    SessionOver,
    /// Anything else.
    Failed,
}

/// A call that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallFailure {
    /// The call's name in `nvml.h`.
    pub call: &'static str,
    /// NVML's error, in the closed set of [`error_name`].
    pub error: &'static str,
    /// What it means.
    pub kind: FailureKind,
}

impl CallFailure {
    /// Reads NVML's answer to `call`.
    #[must_use]
    pub fn new(call: &'static str, error: &NvmlError) -> Self {
        Self {
            call,
            error: error_name(error),
            kind: kind(error),
        }
    }
}

impl fmt::Display for CallFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} answers {}", self.call, self.error)
    }
}

fn kind(error: &NvmlError) -> FailureKind {
    match error {
        NvmlError::NotSupported
        | NvmlError::NotFound
        | NvmlError::NoData
        | NvmlError::FunctionNotFound
        | NvmlError::FailedToLoadSymbol(_) => FailureKind::NotAvailable,
        NvmlError::GpuLost | NvmlError::ResetRequired => FailureKind::Lost,
        NvmlError::Uninitialized | NvmlError::DriverNotLoaded | NvmlError::LibRmVersionMismatch => {
            FailureKind::SessionOver
        }
        _ => FailureKind::Failed,
    }
}

/// A short fixed name for each error: a metric's label, and part of what people read.
#[must_use]
#[allow(
    deprecated,
    reason = "an old driver may still answer NVML_ERROR_ALREADY_INITIALIZED"
)]
pub fn error_name(error: &NvmlError) -> &'static str {
    match error {
        NvmlError::Utf8Error(_) | NvmlError::NulError(_) => "InvalidString",
        NvmlError::LibloadingError(_) => "LibraryNotLoaded",
        NvmlError::FailedToLoadSymbol(_) => "SymbolMissing",
        NvmlError::StringTooLong { .. } => "StringTooLong",
        NvmlError::IncorrectBits(_) => "IncorrectBits",
        NvmlError::UnexpectedVariant(_) => "UnexpectedValue",
        NvmlError::SetReleaseFailed => "SetReleaseFailed",
        NvmlError::GetPciInfoFailed | NvmlError::PciInfoToCFailed => "PciInfo",
        NvmlError::Uninitialized => "Uninitialized",
        NvmlError::InvalidArg => "InvalidArgument",
        NvmlError::NotSupported => "NotSupported",
        NvmlError::NoPermission => "NoPermission",
        NvmlError::AlreadyInitialized => "AlreadyInitialized",
        NvmlError::NotFound => "NotFound",
        NvmlError::InsufficientSize(_) => "InsufficientSize",
        NvmlError::InsufficientPower => "InsufficientPower",
        NvmlError::DriverNotLoaded => "DriverNotLoaded",
        NvmlError::Timeout => "Timeout",
        NvmlError::IrqIssue => "IrqIssue",
        NvmlError::LibraryNotFound => "LibraryNotFound",
        NvmlError::FunctionNotFound => "FunctionNotFound",
        NvmlError::CorruptedInfoROM => "CorruptedInfoRom",
        NvmlError::GpuLost => "GpuLost",
        NvmlError::ResetRequired => "ResetRequired",
        NvmlError::OperatingSystem => "OperatingSystem",
        NvmlError::LibRmVersionMismatch => "LibraryVersionMismatch",
        NvmlError::InUse => "InUse",
        NvmlError::InsufficientMemory => "InsufficientMemory",
        NvmlError::NoData => "NoData",
        NvmlError::VgpuEccNotSupported => "VgpuEccNotSupported",
        NvmlError::Unknown => "Unknown",
    }
}

/// Makes the calls: counts those that fail and knows which one has not returned.
#[derive(Debug)]
pub struct Calls {
    in_flight: Mutex<Option<(&'static str, Instant)>>,
    errors: IntCounterVec,
}

impl Calls {
    /// `errors` has the labels `call` and `error`.
    #[must_use]
    pub fn new(errors: IntCounterVec) -> Self {
        Self {
            in_flight: Mutex::new(None),
            errors,
        }
    }

    /// Runs `body`, which makes the one NVML call `call`, that every device should answer.
    pub fn run<T>(
        &self,
        call: &'static str,
        body: impl FnOnce() -> Result<T, NvmlError>,
    ) -> Result<T, CallFailure> {
        self.watched(call, body)
            .map_err(|error| self.counted(CallFailure::new(call, &error)))
    }

    /// As [`Calls::run`], for a value that many devices do not have or do not tell: then it is `None`.
    pub fn optional<T>(
        &self,
        call: &'static str,
        body: impl FnOnce() -> Result<T, NvmlError>,
    ) -> Result<Option<T>, CallFailure> {
        match self.watched(call, body) {
            Ok(value) => Ok(Some(value)),
            Err(NvmlError::NoPermission) => Ok(None),
            Err(error) => match CallFailure::new(call, &error) {
                failure if failure.kind == FailureKind::NotAvailable => Ok(None),
                failure => Err(self.counted(failure)),
            },
        }
    }

    fn counted(&self, failure: CallFailure) -> CallFailure {
        self.errors
            .with_label_values(&[failure.call, failure.error])
            .inc();
        failure
    }

    /// Runs `body` under the watchdog and hands its error on as it is.
    pub fn watched<T>(
        &self,
        call: &'static str,
        body: impl FnOnce() -> Result<T, NvmlError>,
    ) -> Result<T, NvmlError> {
        self.mark(Some((call, Instant::now())));
        let answer = body();
        self.mark(None);
        answer
    }

    /// The call that has not returned for longer than it may take.
    #[must_use]
    pub fn stuck(&self, now: Instant) -> Option<&'static str> {
        let in_flight = *self
            .in_flight
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        in_flight
            .filter(|(call, since)| now.saturating_duration_since(*since) > may_take(call))
            .map(|(call, _)| call)
    }

    fn mark(&self, call: Option<(&'static str, Instant)>) {
        *self
            .in_flight
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = call;
    }
}

/// How long a call may take. Without persistence mode the first contact initialises the GPUs one after another, which
/// takes seconds for each; everything after that is answered in milliseconds.
#[must_use]
pub fn may_take(call: &str) -> Duration {
    match call {
        "nvmlInit_v2" | "nvmlShutdown" | "nvmlDeviceGetHandleByIndex_v2" => Duration::from_mins(1),
        _ => Duration::from_secs(10),
    }
}

#[cfg(test)]
mod tests {
    use prometheus::Opts;

    use super::*;

    fn calls() -> (Calls, IntCounterVec) {
        let errors = IntCounterVec::new(Opts::new("errors", "errors"), &["call", "error"]).unwrap();
        (Calls::new(errors.clone()), errors)
    }

    #[test]
    fn a_value_that_a_device_does_not_have_is_no_error() {
        let (calls, errors) = calls();
        let answer = calls.optional("nvmlDeviceGetUtilizationRates", || {
            Err::<u32, _>(NvmlError::NotSupported)
        });
        assert_eq!(answer, Ok(None));
        let missing = calls.optional("nvmlDeviceGetPowerUsage", || {
            Err::<u32, _>(NvmlError::FailedToLoadSymbol("x".into()))
        });
        assert_eq!(missing, Ok(None));
        assert!(
            prometheus::core::Collector::collect(&errors)[0]
                .get_metric()
                .is_empty()
        );
    }

    #[test]
    fn a_failed_call_is_counted_by_its_name_and_error() {
        let (calls, errors) = calls();
        let failure = calls
            .optional("nvmlDeviceGetUUID", || Err::<(), _>(NvmlError::GpuLost))
            .unwrap_err();
        assert_eq!(failure.kind, FailureKind::Lost);
        assert_eq!(failure.to_string(), "nvmlDeviceGetUUID answers GpuLost");
        assert_eq!(
            errors
                .with_label_values(&["nvmlDeviceGetUUID", "GpuLost"])
                .get(),
            1
        );
    }

    #[test]
    fn a_call_is_stuck_only_while_it_has_not_returned_for_too_long() {
        let (calls, _) = calls();
        let call = "nvmlDeviceGetPowerUsage";
        let late = || Instant::now() + may_take(call) + Duration::from_secs(1);
        let during = calls.watched(call, || {
            Ok((calls.stuck(Instant::now()), calls.stuck(late())))
        });
        assert_eq!(during.unwrap(), (None, Some(call)));
        assert_eq!(calls.stuck(late()), None, "it has returned");
    }

    #[test]
    fn the_first_contact_may_take_longer_than_a_sample() {
        assert!(may_take("nvmlInit_v2") > may_take("nvmlDeviceGetMemoryInfo_v2"));
    }
}
