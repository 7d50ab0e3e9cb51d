//! The exported functions, by subject. nvml.h is their documentation; comments here say only what it leaves open.

/// Exports functions of NVML. The first name is the [`crate::library::Call`] that the body may use.
macro_rules! exported {
    ($($(#[$attribute:meta])* $name:ident($call:ident $(, $argument:ident: $type:ty)* $(,)?) $body:block)*) => {
        $(
            $(#[$attribute])*
            #[allow(non_snake_case, reason = "NVML's names")]
            #[unsafe(no_mangle)]
            pub unsafe extern "C" fn $name($($argument: $type),*) -> std::ffi::c_uint {
                crate::library::guard(stringify!($name), |$call| $body)
            }
        )*
    };
}

mod accounting;
mod enumeration;
pub mod events;
mod fields;
mod health;
mod identity;
mod links;
mod load;
mod memory;
mod mig;
mod processes;
mod refused;
mod system;
