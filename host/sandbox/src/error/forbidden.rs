//! Why a component may not reach the compiler.

use thiserror::Error;

/// Why a component is not handed to the compiler. Offsets are in bytes from its start.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Forbidden {
    /// Something else altogether.
    #[error("its header is not a component's; a core module must be made into one first (`wasm-tools component new`)")]
    NotAComponent,
    /// It uses a WebAssembly feature that optimizers may not use.
    #[error("at byte {offset}: it uses {feature}, which optimizers may not ({reason})")]
    Feature {
        /// The feature's name in WebAssembly's specifications.
        feature: String,
        /// What it is needed for there.
        reason: String,
        /// Where.
        offset: usize,
    },
    /// It is not valid.
    #[error("at byte {offset}: {reason}")]
    Invalid {
        /// What the validator says.
        reason: String,
        /// Where.
        offset: usize,
    },
    /// Code that runs by itself when it is instantiated.
    #[error(
        "at byte {offset}: it has a start function; whatever an optimizer must set up belongs into `plan` or `bind`"
    )]
    StartFunction {
        /// Where.
        offset: usize,
    },
    /// It has more of something than it may have.
    #[error("at byte {offset}: it has {found} {what}; sandbox.component.{limit} = {allowed}")]
    TooMany {
        /// What it has too many of, such as `functions`.
        what: &'static str,
        /// The limit's name.
        limit: &'static str,
        /// How many it has, at least.
        found: u64,
        /// How many it may have.
        allowed: u64,
        /// Where that was reached.
        offset: usize,
    },
}

impl From<wasmparser::Error> for Forbidden {
    fn from(error: wasmparser::Error) -> Self {
        let (reason, offset) = (error.message().to_owned(), error.offset());
        match error.missing_wasm_feature() {
            Some(missing) => {
                let names: Vec<_> =
                    missing.iter_names().map(|(name, _)| name.to_lowercase().replace('_', "-")).collect();
                Self::Feature { feature: names.join(" or "), reason, offset }
            }
            None => Self::Invalid { reason, offset },
        }
    }
}
