//! Building blocks of hostile guests that do what the guest SDK does not allow: each guest replaces some exports of an
//! honest optimizer.
//!
//! A guest can have several tricks. A test selects one by changing a letter in the component's bytes (`trick`).

#![cfg(target_arch = "wasm32")]
#![allow(unsafe_code, reason = "a sandboxed guest may write anywhere in its own memory: guests test that")]

use std::cell::RefCell;
use std::ops::Range;

pub use stepbox_guest;
use stepbox_guest::component::Instance;
pub use stepbox_guest::component::bindings::stepbox::optimizer::types;
use stepbox_guest::prelude::*;

hyperparameters! {
    /// Gradient descent with a sum of gradients beside it.
    pub struct Honest {}
}

impl Elementwise for Honest {
    const NAME: &'static str = "hostile";
    const LEARNING_RATE: f64 = 0.01;
    type State = [f32; 1];
    type Round = f32;

    fn slots(&self) -> [Slot; 1] {
        [Slot::zero("velocity")]
    }

    fn begin(&self, _tensor: &Tensor, context: &Context) -> f32 {
        context.learning_rate
    }

    fn update(rate: &f32, parameter: f32, gradient: f32, [velocity]: [f32; 1]) -> (f32, [f32; 1]) {
        (parameter - rate * gradient, [velocity + gradient])
    }
}

thread_local! {
    static HONEST: RefCell<Instance<Honest>> = RefCell::new(Instance::default());
    static SLICES: RefCell<Vec<types::Slice>> = const { RefCell::new(Vec::new()) };
}

/// The contract's exports. The exports that a guest does not override are those of the honest optimizer.
pub trait Exports {
    /// The name that `describe` returns.
    const NAME: &'static str = <Honest as Elementwise>::NAME;

    /// Implements the contract's `describe`.
    fn describe() -> types::Description {
        types::Description { name: Self::NAME.into(), ..Instance::<Honest>::describe() }
    }

    /// Implements the contract's `plan`.
    fn plan(hyperparameters: Vec<types::Value>, tensor: types::Tensor) -> Result<types::TensorPlan, String> {
        Instance::<Honest>::plan(&hyperparameters, tensor)
    }

    /// Implements the contract's `reserve`.
    fn reserve(bytes: u32) -> Result<u32, String> {
        HONEST.with_borrow_mut(|honest| honest.reserve(bytes))
    }

    /// Implements the contract's `bind`.
    fn bind(slice: types::Slice, hyperparameters: Vec<types::Value>) -> Result<u32, String> {
        SLICES.with_borrow_mut(|slices| slices.push(slice.clone()));
        HONEST.with_borrow_mut(|honest| honest.bind(slice, &hyperparameters))
    }

    /// Implements the contract's `begin`.
    fn begin(slice: u32, phase: u32, context: types::Context) -> Result<(), String> {
        HONEST.with_borrow_mut(|honest| honest.begin(slice, phase, context))
    }

    /// Implements the contract's `step`.
    fn step(slice: u32, phase: u32, block: types::Block) -> Result<(), String> {
        HONEST.with_borrow_mut(|honest| honest.step(slice, phase, block))
    }
}

/// The exports of the honest optimizer, for guests to delegate to.
pub struct Otherwise;

impl Exports for Otherwise {}

/// Records a slice without binding it in the honest optimizer. Returns the number of the slice.
pub fn note(slice: types::Slice) -> u32 {
    SLICES.with_borrow_mut(|slices| {
        slices.push(slice);
        slices.len() as u32 - 1
    })
}

/// The slices recorded so far.
pub fn slices() -> Vec<types::Slice> {
    SLICES.with_borrow(Clone::clone)
}

/// A marker whose last letter a test changes.
static CHOSEN: [u8; 18] = *b"trick of choice: A";

/// The trick that a test selected: a letter, `A` by default.
pub fn trick() -> char {
    // SAFETY: the static exists. The read is volatile because the compiler does not know that a test changes the bytes.
    unsafe { (&raw const CHOSEN[17]).read_volatile() }.into()
}

/// The bytes of a view of `f32` elements, as a range of addresses.
pub fn floats(view: &types::View) -> Range<usize> {
    view.offset as usize..(view.offset + view.elements * 4) as usize
}

/// Writes a number to any address in the linear memory.
pub fn write(address: usize, number: f32) {
    // SAFETY: all of the linear memory belongs to this guest; an address outside it traps.
    unsafe { core::ptr::with_exposed_provenance_mut::<f32>(address).write_volatile(number) }
}

/// Reads a number from any address in the linear memory.
pub fn read(address: usize) -> f32 {
    // SAFETY: as in `write`.
    unsafe { core::ptr::with_exposed_provenance::<f32>(address).read_volatile() }
}

/// Never returns.
pub fn forever() -> ! {
    let mut turn = 0_u64;
    loop {
        turn = std::hint::black_box(turn + 1);
    }
}

/// Exports these functions as a component.
#[macro_export]
macro_rules! export {
    ($guest:ty) => {
        const _: () = {
            use $crate::stepbox_guest::component::bindings::exports::stepbox::optimizer::optimizer::Guest as Contract;
            use $crate::types;

            struct Component;

            impl Contract for Component {
                fn describe() -> types::Description {
                    <$guest as $crate::Exports>::describe()
                }

                fn plan(
                    hyperparameters: Vec<types::Value>,
                    tensor: types::Tensor,
                ) -> Result<types::TensorPlan, String> {
                    <$guest as $crate::Exports>::plan(hyperparameters, tensor)
                }

                fn reserve(bytes: u32) -> Result<u32, String> {
                    <$guest as $crate::Exports>::reserve(bytes)
                }

                fn bind(slice: types::Slice, hyperparameters: Vec<types::Value>) -> Result<u32, String> {
                    <$guest as $crate::Exports>::bind(slice, hyperparameters)
                }

                fn begin(slice: u32, phase: u32, context: types::Context) -> Result<(), String> {
                    <$guest as $crate::Exports>::begin(slice, phase, context)
                }

                fn step(slice: u32, phase: u32, block: types::Block) -> Result<(), String> {
                    <$guest as $crate::Exports>::step(slice, phase, block)
                }
            }

            $crate::stepbox_guest::component::bindings::export_component!(
                Component with_types_in $crate::stepbox_guest::component::bindings
            );
        };
    };
}
