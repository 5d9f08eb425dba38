//! How much of what a component may consist of.
//!
//! Each limit is some ten times what the largest of our own optimizers has, or what one with an interpreter in it has:
//! those have ten thousand functions and a few megabytes of code.

use serde::{Deserialize, Serialize};

/// Core modules: an optimizer has its own and two or three small ones that adapt it.
pub const DEFAULT_MODULES: u64 = 16;

/// Components within components: an optimizer is one, with one for each interface it exports.
pub const DEFAULT_COMPONENTS: u64 = 32;

/// How deep components lie in each other. Optimizers have two levels.
pub const DEFAULT_NESTING: u64 = 4;

/// Instances of modules and of components, and what is put together to look like one.
pub const DEFAULT_INSTANCES: u64 = 256;

/// Types, those of components and those of functions.
pub const DEFAULT_TYPES: u64 = 10_000;

/// Imports of all modules and components.
pub const DEFAULT_IMPORTS: u64 = 2_000;

/// Exports of all modules and components.
pub const DEFAULT_EXPORTS: u64 = 10_000;

/// Names for what belongs to another module or component, and functions that cross between component and module.
pub const DEFAULT_ALIASES: u64 = 10_000;

/// Functions with a body: an optimizer in Rust has some hundred, an interpreter some ten thousand.
pub const DEFAULT_FUNCTIONS: u64 = 50_000;

/// Tables of all modules.
pub const DEFAULT_TABLES: u64 = 8;

/// Memories that all modules define: the one that the server places tensors in.
pub const DEFAULT_MEMORIES: u64 = 1;

/// Globals of all modules: a stack pointer and some addresses.
pub const DEFAULT_GLOBALS: u64 = 1_000;

/// Segments of data and of table elements.
pub const DEFAULT_SEGMENTS: u64 = 10_000;

/// Bytes of one function's body. Compilers keep all of a function in memory, in a form that is some hundred times as
/// large, and parts of their work grow faster than it.
pub const DEFAULT_FUNCTION_BYTES: u64 = 512 << 10;

/// Local variables of one function.
pub const DEFAULT_LOCALS: u64 = 5_000;

/// How deep blocks lie in each other within a function.
pub const DEFAULT_BLOCK_DEPTH: u64 = 1_000;

/// Targets of all of a function's tables of branches.
pub const DEFAULT_BRANCH_TARGETS: u64 = 20_000;

macro_rules! measures {
    ($($(#[doc = $doc:literal])+ $name:ident: $what:literal, $default:ident;)+) => {
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
    /// Core modules.
    modules: "core modules", DEFAULT_MODULES;
    /// Components within it.
    components: "nested components", DEFAULT_COMPONENTS;
    /// How deep components lie in each other.
    nesting: "levels of nested components", DEFAULT_NESTING;
    /// Instances of modules and components.
    instances: "instances", DEFAULT_INSTANCES;
    /// Types.
    types: "types", DEFAULT_TYPES;
    /// Imports of all modules and components.
    imports: "imports", DEFAULT_IMPORTS;
    /// Exports of all modules and components.
    exports: "exports", DEFAULT_EXPORTS;
    /// Aliases and crossing functions.
    aliases: "aliases and crossing functions", DEFAULT_ALIASES;
    /// Functions with a body.
    functions: "functions", DEFAULT_FUNCTIONS;
    /// Tables of all modules.
    tables: "tables", DEFAULT_TABLES;
    /// Memories of all modules.
    memories: "memories", DEFAULT_MEMORIES;
    /// Globals of all modules.
    globals: "globals", DEFAULT_GLOBALS;
    /// Segments of data and table elements.
    segments: "segments", DEFAULT_SEGMENTS;
    /// Bytes of the largest function's body.
    function_bytes: "bytes in one function", DEFAULT_FUNCTION_BYTES;
    /// Local variables of the function that has most.
    locals: "local variables in one function", DEFAULT_LOCALS;
    /// Depth of blocks in the function where they are deepest.
    block_depth: "blocks within each other", DEFAULT_BLOCK_DEPTH;
    /// Targets of branch tables of the function that has most.
    branch_targets: "targets of branch tables in one function", DEFAULT_BRANCH_TARGETS;
}
