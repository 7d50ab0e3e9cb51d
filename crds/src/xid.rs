//! What an Xid event says of the hardware.
//!
//! Sources: NVIDIA's Xid catalog (docs.nvidia.com/deploy/xid-errors, the table with resolution buckets), its checks of Xid
//! events (docs.nvidia.com/health-validation, `checks/xid`), its memory error management (docs.nvidia.com/deploy/
//! a100-gpu-mem-error-mgmt), and for [`APPLICATION`] what its device plugin for Kubernetes ignores by default.

/// What an Xid event says of the hardware.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XidClass {
    /// The program is at fault, or was only told of a fault that has an Xid of its own. It never counts against a device.
    Application,
    /// The device must not be used before it was reset, or before it was clean for long enough.
    Hardware,
    /// The device works on and is to be watched: it has contained an error or is worn.
    Watch,
    /// It is told of and counts for nothing: what it means depends on the model and the driver, or nobody says.
    Other,
}

/// Xids that programs cause.
///
/// | Xid | what |
/// |---|---|
/// | 13 | exception of the graphics engine, such as an address out of range |
/// | 31 | memory page fault |
/// | 43 | the program's channel was reset |
/// | 45 | clean-up after a program ended, or after another Xid |
/// | 68 | exception of the video processor |
/// | 109 | a context switch timed out |
pub const APPLICATION: [u32; 6] = [13, 31, 43, 45, 68, 109];

/// Xids after which NVIDIA asks for a reset or for service.
///
/// | Xid | what |
/// |---|---|
/// | 46 | the GPU stopped processing |
/// | 48 | uncorrectable memory error (double bit) |
/// | 62 | the microcontroller halted |
/// | 64 | a row or page could not be recorded for remapping or retirement |
/// | 74 | NVLink error |
/// | 79 | the GPU has fallen off the bus |
/// | 95 | uncontained memory error |
/// | 119 | the GPU's system processor did not answer in time |
/// | 120 | error of the GPU's system processor |
/// | 140 | unrecovered memory error |
pub const HARDWARE: [u32; 10] = [46, 48, 62, 64, 74, 79, 95, 119, 120, 140];

/// Xids of a device that works on.
///
/// | Xid | what |
/// |---|---|
/// | 63 | a row or page was recorded for remapping or retirement at the next reset |
/// | 92 | a high rate of corrected memory errors |
/// | 94 | contained memory error: the program that met it is lost, the device goes on |
pub const WATCH: [u32; 3] = [63, 92, 94];

/// The class of an Xid.
#[must_use]
pub fn class(xid: u32) -> XidClass {
    if APPLICATION.contains(&xid) {
        XidClass::Application
    } else if HARDWARE.contains(&xid) {
        XidClass::Hardware
    } else if WATCH.contains(&xid) {
        XidClass::Watch
    } else {
        XidClass::Other
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_xid_has_one_class() {
        let mut all: Vec<u32> = [&APPLICATION[..], &HARDWARE, &WATCH].concat();
        let listed = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), listed);
    }

    #[test]
    fn what_programs_cause_never_speaks_against_the_hardware() {
        for xid in [13, 31, 43, 45, 68, 109] {
            assert_eq!(class(xid), XidClass::Application, "{xid}");
        }
        for xid in [48, 74, 79, 95, 119, 120] {
            assert_eq!(class(xid), XidClass::Hardware, "{xid}");
        }
        assert_eq!(class(94), XidClass::Watch);
        assert_eq!(class(999), XidClass::Other);
    }
}
