//! One list makes the constants, the section `[limits]` and the table that `stepbox limits` prints: a limit that is in
//! one of them is in all.

/// For each limit: its text, which is its constant's documentation and its reason in the table; its name in the
/// configuration, type and unit; and its constant.
macro_rules! limits {
    ($(
        $(#[doc = $reason:literal])*
        $field:ident: $type:ty, $unit:literal =>
        pub const $constant:ident: $of:ty = $value:expr;
    )*) => {
        $(
            $(#[doc = $reason])*
            pub const $constant: $of = $value;
        )*

        /// The section `[limits]` of the configuration.
        #[derive(Debug, Clone, PartialEq, Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub struct Limits {
            $(
                $(#[doc = $reason])*
                pub $field: $type,
            )*
        }

        impl Default for Limits {
            fn default() -> Self {
                use crate::config::limits::table::Setting;
                Self { $($field: <$type>::from_constant($constant),)* }
            }
        }

        impl Limits {
            /// All of them as they are, and as they would be unless set.
            pub(crate) fn list(&self) -> impl Iterator<Item = Limit> {
                use crate::config::limits::table::Setting;
                let default = Self::default();
                [$(Limit {
                    section: "limits",
                    name: stringify!($field),
                    value: self.$field.number(),
                    default: default.$field.number(),
                    unit: $unit,
                    reason: concat!($($reason),*).trim_ascii(),
                },)*].into_iter()
            }
        }
    };
}

pub(crate) use limits;
