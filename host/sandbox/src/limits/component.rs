//! How much of what a component may consist of.
//!
//! Each limit is some ten times what the largest of our own optimizers has, or what one with an interpreter in it has:
//! those have ten thousand functions and a few megabytes of code.

use serde::{Deserialize, Serialize};

macro_rules! measures {
    ($($(#[doc = $doc:literal])+ $name:ident: $what:literal => pub const $default:ident: u64 = $value:literal;)+) => {
        $($(#[doc = $doc])+ pub const $default: u64 = $value;)+

        /// How much of what a component may consist of. Every field has a default; see the constants for the reasons.
        #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub struct ComponentLimits {
            $($(#[doc = $doc])+ pub $name: u64,)+
        }

        impl Default for ComponentLimits {
            fn default() -> Self {
                Self { $($name: $default,)+ }
            }
        }

        impl ComponentLimits {
            /// Every limit: its name, its value, what is counted, and the reason for its default.
            pub fn entries(&self) -> impl Iterator<Item = (&'static str, u64, &'static str, &'static str)> {
                [$((stringify!($name), self.$name, $what, concat!($($doc),+).trim_ascii()),)+].into_iter()
            }
        }

        /// What a component consists of.
        #[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
        pub struct Structure {
            $($(#[doc = $doc])+ pub $name: u64,)+
        }

        impl Structure {
            /// What there is more of than there may be: in words, the limit's name, how much there is and may be.
            pub(crate) fn exceeded(&self, limits: &ComponentLimits) -> Option<(&'static str, &'static str, u64, u64)> {
                $(if self.$name > limits.$name {
                    return Some(($what, stringify!($name), self.$name, limits.$name));
                })+
                None
            }
        }
    };
}

measures! {
    /// Core modules: an optimizer has its own and two or three small ones that adapt it.
    modules: "core modules" =>
    pub const DEFAULT_MODULES: u64 = 16;

    /// Components within components: an optimizer is one, with one for each interface it exports.
    components: "nested components" =>
    pub const DEFAULT_COMPONENTS: u64 = 32;

    /// How deep components lie in each other. Optimizers have two levels.
    nesting: "levels of nested components" =>
    pub const DEFAULT_NESTING: u64 = 4;

    /// Instances of modules and of components, and what is put together to look like one.
    instances: "instances" =>
    pub const DEFAULT_INSTANCES: u64 = 256;

    /// Types, those of components and those of functions.
    types: "types" =>
    pub const DEFAULT_TYPES: u64 = 10_000;

    /// Types of components and instances that are declared within others, as counted without reading them. The parser needs
    /// stack for each that lies in another; interfaces need none at all.
    nested_types: "types within types" =>
    pub const DEFAULT_NESTED_TYPES: u64 = 200;

    /// Imports of all modules and components.
    imports: "imports" =>
    pub const DEFAULT_IMPORTS: u64 = 2_000;

    /// Exports of all modules and components.
    exports: "exports" =>
    pub const DEFAULT_EXPORTS: u64 = 10_000;

    /// Names for what belongs to another module or component, and functions that cross between component and module.
    aliases: "aliases and crossing functions" =>
    pub const DEFAULT_ALIASES: u64 = 10_000;

    /// Functions with a body: an optimizer in Rust has some hundred, an interpreter some ten thousand.
    functions: "functions" =>
    pub const DEFAULT_FUNCTIONS: u64 = 50_000;

    /// Tables of all modules.
    tables: "tables" =>
    pub const DEFAULT_TABLES: u64 = 8;

    /// Memories that all modules define: the one that the server places tensors in.
    memories: "memories" =>
    pub const DEFAULT_MEMORIES: u64 = 1;

    /// Globals of all modules: a stack pointer and some addresses.
    globals: "globals" =>
    pub const DEFAULT_GLOBALS: u64 = 1_000;

    /// Segments of data and of table elements.
    segments: "segments" =>
    pub const DEFAULT_SEGMENTS: u64 = 10_000;

    /// Bytes of one function's body. Compilers keep all of a function in memory, in a form that is some hundred times as
    /// large, and parts of their work grow faster than it.
    function_bytes: "bytes in one function" =>
    pub const DEFAULT_FUNCTION_BYTES: u64 = 524_288;

    /// Local variables of one function.
    locals: "local variables in one function" =>
    pub const DEFAULT_LOCALS: u64 = 5_000;

    /// How deep blocks lie in each other within a function.
    block_depth: "blocks within each other" =>
    pub const DEFAULT_BLOCK_DEPTH: u64 = 1_000;

    /// Targets of all of a function's tables of branches.
    branch_targets: "targets of branch tables in one function" =>
    pub const DEFAULT_BRANCH_TARGETS: u64 = 20_000;
}
