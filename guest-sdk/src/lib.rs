//! The SDK for authors of Stepbox optimizers.
//!
//! An optimizer is a struct of hyperparameters and some arithmetic. The SDK does the rest: it runs the arithmetic over
//! blocks in the component's memory, unrolled and with SIMD; it implements the contract (`stepbox:optimizer@0.1.0`, see
//! `wit/`); and it describes the hyperparameters to the server.
//!
//! - An optimizer that treats each parameter independently implements [`Elementwise`]: SGD, AdamW, Lion and most
//!   others.
//! - An optimizer that needs more implements [`Optimizer`]: several passes over a tensor with norms and other
//!   statistics between them (LAMB, Adafactor, Prodigy), whole matrices (Muon, Shampoo, SOAP), random numbers (SGLD),
//!   touched rows only (lazy Adam, row-wise Adagrad), or evaluation weights (Schedule-Free).
//!
//! The same code also compiles natively, so `cargo test` can test it without a sandbox ([`Native`], [`NativeModel`]):
//!
//! ```
//! use stepbox_guest::prelude::*;
//!
//! hyperparameters! {
//!     /// Gradient descent with momentum.
//!     pub struct Momentum {
//!         /// Fraction of the velocity retained from round to round.
//!         momentum: f32 = 0.9 in 0.0..1.0,
//!     }
//! }
//!
//! impl Elementwise for Momentum {
//!     const NAME: &'static str = "momentum";
//!     const LEARNING_RATE: f64 = 0.01;
//!     type State = [f32; 1];
//!     type Round = (f32, f32);
//!
//!     fn slots(&self) -> [Slot; 1] {
//!         [Slot::zero("velocity")]
//!     }
//!
//!     fn begin(&self, _tensor: &Tensor, context: &Context) -> Self::Round {
//!         (context.learning_rate, self.momentum)
//!     }
//!
//!     fn update(&(rate, momentum): &Self::Round, parameter: f32, gradient: f32, [velocity]: [f32; 1]) -> (f32, [f32; 1]) {
//!         let velocity = momentum * velocity + gradient;
//!         (parameter - rate * velocity, [velocity])
//!     }
//! }
//!
//! register!(Momentum);
//!
//! let mut training = Native::new(Momentum::default(), vec![1.0, -1.0]);
//! training.round(0.1, &[0.5, 0.5]);
//! assert_eq!(training.parameters(), [0.95, -1.05]);
//! ```
//!
//! # The same bits everywhere
//!
//! WebAssembly's `f32` arithmetic is IEEE 754 without contraction, and so is Rust's: `+ - * /` and `sqrt` give the same
//! bits in the sandbox and natively, on every processor. The transcendental functions of `std` do not, because they
//! call the platform's mathematics library. Use the functions of [`math`] instead. Do not use `mul_add`.
//!
//! Results do not depend on how a server cuts a tensor into slices and blocks, because
//!
//! - the loops of [`Block`] visit single elements, single rows, or chunks of 4096 elements counted from the start of
//!   the tensor;
//! - sums and norms are added in an order that is part of their definition: see [`statistics`];
//! - random numbers belong to elements: see [`Random`];
//! - `begin` computes its result only from what all slices share ([`Native::cut`] finds violations).
//!
//! Matrix products ([`linear_algebra`]) give the same bits everywhere as well: their order of operations is part of the
//! contract.

#![deny(missing_docs)]
#![deny(unsafe_code)]

mod accumulator;
#[cfg(not(target_arch = "wasm32"))]
pub mod bench;
pub mod bf16;
mod block;
mod cast;
mod choices;
mod context;
mod contributing;
mod elementwise;
pub mod linear_algebra;
pub mod math;
#[cfg(any(target_arch = "wasm32", test))]
mod memory;
mod native;
mod operand;
mod optimizer;
mod plan;
pub mod quantise;
mod random;
mod schema;
mod slot;
mod slots;
pub mod statistics;

#[cfg(target_arch = "wasm32")]
pub mod component;

pub use accumulator::{Accumulator, Combination, Contributor, Scope};
pub use block::{Block, Chunk, Row};
pub use context::{Context, Tensor};
pub use elementwise::{Elementwise, State, UNROLLED_ELEMENTS};
pub use native::{Gradient, Native, NativeModel};
pub use optimizer::Optimizer;
pub use plan::{Granularity, Plan};
pub use random::Random;
#[doc(hidden)]
pub use schema::is_choice;
pub use schema::{Choices, Domain, Field, Hyperparameter, Hyperparameters, IntegerRange, NumberRange, Value};
pub use slot::{Code, Element, ElementType, Extent, Initial, Slot};
pub use slots::{Combined, Shared, Slots};

/// Everything that an optimizer's source file needs: `use stepbox_guest::prelude::*;`.
pub mod prelude {
    pub use crate::{
        Accumulator, Block, Chunk, Code, Context, ElementType, Elementwise, Gradient, Hyperparameters, Native,
        NativeModel, Optimizer, Plan, Random, Row, Shared, Slot, Tensor, bf16, choices, hyperparameters,
        linear_algebra, math, register, statistics,
    };
}

/// Turns the crate's library into a Stepbox component that runs the given optimizer. Expands to nothing in a native
/// build.
///
/// The crate needs `crate-type = ["cdylib", "rlib"]`. Invoke the macro once per crate.
#[macro_export]
macro_rules! register {
    ($optimizer:ty) => {
        #[cfg(target_arch = "wasm32")]
        const _: () = {
            use ::std::{cell::RefCell, result::Result, string::String, vec::Vec};
            use $crate::component::Instance;
            use $crate::component::bindings::{
                exports::stepbox::optimizer::optimizer::Guest, stepbox::optimizer::types,
            };

            ::std::thread_local! {
                static INSTANCE: RefCell<Instance<$optimizer>> = RefCell::new(Instance::default());
            }

            struct Component;

            impl Guest for Component {
                fn describe() -> types::Description {
                    Instance::<$optimizer>::describe()
                }

                fn plan(
                    hyperparameters: Vec<types::Value>,
                    tensor: types::Tensor,
                ) -> Result<types::TensorPlan, String> {
                    Instance::<$optimizer>::plan(&hyperparameters, tensor)
                }

                fn reserve(bytes: u32) -> Result<u32, String> {
                    INSTANCE.with_borrow_mut(|instance| instance.reserve(bytes))
                }

                fn bind(slice: types::Slice, hyperparameters: Vec<types::Value>) -> Result<u32, String> {
                    INSTANCE.with_borrow_mut(|instance| instance.bind(slice, &hyperparameters))
                }

                fn begin(slice: u32, phase: u32, context: types::Context) -> Result<(), String> {
                    INSTANCE.with_borrow_mut(|instance| instance.begin(slice, phase, context))
                }

                fn step(slice: u32, phase: u32, block: types::Block) -> Result<(), String> {
                    INSTANCE.with_borrow_mut(|instance| instance.step(slice, phase, block))
                }
            }

    $crate::component::bindings::export_component!(Component with_types_in $crate::component::bindings);
        };
    };
}

/// The README's example, compiled and run as a test.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
