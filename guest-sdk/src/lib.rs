//! What an author of a Stepbox optimizer depends on.
//!
//! An optimizer is a struct of hyperparameters and the arithmetic for one parameter. The SDK does the rest: it runs
//! that arithmetic over blocks that lie in the component's memory, unrolled and with SIMD, speaks the contract
//! (`stepbox:optimizer@0.1.0`, see `wit/`), and describes the hyperparameters to the server.
//!
//! The same code compiles natively, so that it is tested with `cargo test` and no sandbox:
//!
//! ```
//! use stepbox_guest::prelude::*;
//!
//! hyperparameters! {
//!     /// Gradient descent with momentum.
//!     pub struct Momentum {
//!         /// Share of the velocity that is kept from round to round.
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
//! bits in the sandbox and natively, on every processor. Transcendental functions of `std` do not (they call the
//! platform's mathematics library): take those of [`math`] instead. Do not use `mul_add`.

#![deny(missing_docs)]
#![deny(unsafe_code)]

mod context;
mod elementwise;
pub mod math;
#[cfg(any(target_arch = "wasm32", test))]
mod memory;
mod native;
mod schema;
mod slot;

#[cfg(target_arch = "wasm32")]
pub mod component;

pub use context::{Context, Tensor};
pub use elementwise::{Elementwise, State, UNROLLED_ELEMENTS};
pub use native::Native;
pub use schema::{Domain, Field, Hyperparameter, Hyperparameters, IntegerRange, NumberRange, Value};
pub use slot::{Initial, Slot};

/// Everything an optimizer's source needs: `use stepbox_guest::prelude::*;`.
pub mod prelude {
    pub use crate::{Context, Elementwise, Native, Slot, Tensor, hyperparameters, math, register};
}

/// Makes a crate's library a Stepbox component that runs this optimizer. Does nothing in a native build.
///
/// The crate needs `crate-type = ["cdylib", "rlib"]`. One registration a crate.
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
                    _tensor: types::Tensor,
                ) -> Result<types::TensorPlan, String> {
                    Instance::<$optimizer>::plan(&hyperparameters)
                }

                fn reserve(bytes: u32) -> Result<u32, String> {
                    INSTANCE.with_borrow_mut(|instance| instance.reserve(bytes))
                }

                fn bind(slice: types::Slice, hyperparameters: Vec<types::Value>) -> Result<u32, String> {
                    INSTANCE.with_borrow_mut(|instance| instance.bind(slice, &hyperparameters))
                }

                fn rebind(slice: u32, hyperparameters: Vec<types::Value>) -> Result<(), String> {
                    INSTANCE.with_borrow_mut(|instance| instance.rebind(slice, &hyperparameters))
                }

                fn begin(slice: u32, context: types::Context) -> Result<(), String> {
                    INSTANCE.with_borrow_mut(|instance| instance.begin(slice, context))
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
