//! One declaration for an enumeration that users read: its variants, their spelling and their meaning.
//!
//! `docs/conditions.md` is generated from [`ClosedEnum::MEANINGS`], so what the code can say and what the
//! documentation explains cannot drift apart.

/// An enumeration whose variants are a closed, documented list.
pub trait ClosedEnum: Sized + Copy + 'static {
    /// The type's name, as it appears in the documentation.
    const NAME: &'static str;
    /// Every variant, in declaration order.
    const ALL: &'static [Self];
    /// Every variant's spelling and meaning, in declaration order.
    const MEANINGS: &'static [(&'static str, &'static str)];
    /// The variant's spelling in the API.
    fn as_str(self) -> &'static str;
}

/// Declares a [`ClosedEnum`]: a `CamelCase` spelling equal to the variant's name, serde, a schema and `Display`.
#[macro_export]
macro_rules! closed_enum {
    ($(#[$meta:meta])* pub enum $name:ident { $($(#[doc = $doc:literal])+ $variant:ident,)+ }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
        pub enum $name { $($(#[doc = $doc])+ $variant,)+ }

        impl $crate::closed_enum::ClosedEnum for $name {
            const NAME: &'static str = stringify!($name);
            const ALL: &'static [Self] = &[$(Self::$variant,)+];
            const MEANINGS: &'static [(&'static str, &'static str)] = &[$((stringify!($variant), concat!($($doc,)+)),)+];
            fn as_str(self) -> &'static str {
                match self { $(Self::$variant => stringify!($variant),)+ }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str($crate::closed_enum::ClosedEnum::as_str(*self))
            }
        }
    };
}
