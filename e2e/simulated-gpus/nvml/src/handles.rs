//! `nvmlDevice_t`: a number dressed as a pointer, never followed.
//!
//! `TAG | gpu << 8 | mig`, where `mig` is 0 for the whole GPU and the MIG index plus one for a MIG device.

use crate::abi::Handle;

const TAG: usize = 0x4e56_0000_0000;
const GPU_SHIFT: u32 = 8;
const MIG_MASK: usize = 0xff;

/// A whole GPU or one of its MIG devices, by indices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct DeviceIndex {
    pub gpu: usize,
    pub mig: Option<usize>,
}

impl DeviceIndex {
    /// The handle of a whole GPU.
    pub fn gpu(gpu: usize) -> Self {
        Self { gpu, mig: None }
    }

    pub fn to_handle(self) -> Handle {
        let mig = self.mig.map_or(0, |index| index + 1);
        std::ptr::without_provenance_mut(TAG | (self.gpu << GPU_SHIFT) | mig)
    }

    /// What a handle means; nothing where it was not made by [`DeviceIndex::to_handle`].
    pub fn of_handle(handle: Handle) -> Option<Self> {
        let rest = handle.addr() ^ TAG;
        let gpu = rest >> GPU_SHIFT;
        (gpu < 1 << 16).then(|| Self {
            gpu,
            mig: (rest & MIG_MASK).checked_sub(1),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handle_means_what_it_was_made_of() {
        for gpu in [0, 1, 7, 255] {
            for mig in [None, Some(0), Some(6)] {
                let index = DeviceIndex { gpu, mig };
                assert_eq!(DeviceIndex::of_handle(index.to_handle()), Some(index));
            }
        }
    }

    #[test]
    fn null_and_foreign_pointers_are_no_handles() {
        let value = 5_u64;
        for pointer in [std::ptr::null_mut(), (&raw const value).cast_mut().cast()] {
            assert_eq!(DeviceIndex::of_handle(pointer), None);
        }
    }
}
