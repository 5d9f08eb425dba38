//! Optimizers whose step treats each parameter independently, and the loop that runs them.

use crate::{Block, Context, Hyperparameters, Slot, Tensor};

/// An optimizer that updates each parameter only from that parameter, its gradient and its slots: SGD, AdamW, Lion,
/// Adagrad and most others.
///
/// The author writes [`update`](Self::update) for one element. The SDK calls it for whole blocks, unrolled to
/// [`UNROLLED_ELEMENTS`], so that the compiler emits four-lane SIMD and the sandbox's metering costs next to nothing.
/// This stays fast as long as `update` is straight-line arithmetic: an `if` on values should choose between numbers,
/// not between computations.
pub trait Elementwise: Hyperparameters {
    /// The optimizer's name, in lowercase with dashes. The signed manifest carries the same name.
    const NAME: &'static str;

    /// The learning rate that applies if the operator sets none.
    const LEARNING_RATE: f64;

    /// Whether the learning rate may be 0, as at the end of a schedule. Set to `false` if the optimizer divides by it.
    const LEARNING_RATE_MAY_BE_ZERO: bool = true;

    /// Whether the optimizer requires [`Context::loss`].
    const NEEDS_LOSS: bool = false;

    /// A parameter's state: `[f32; N]` for N slots.
    type State: State;

    /// The values that [`begin`](Self::begin) computes once for all elements, for example bias corrections.
    type Round: Copy;

    /// Names and initial values of the slots: one `f32` for each parameter, which may be stored as [bf16](Slot::bf16)
    /// or [in eight bits](Slot::quantised).
    fn slots(&self) -> <Self::State as State>::Slots;

    /// Computes the values that are the same for all elements of a tensor in a round. Use the transcendental functions
    /// of [`math`](crate::math).
    fn begin(&self, tensor: &Tensor, context: &Context) -> Self::Round;

    /// The step for one parameter: returns its new value and its new state.
    fn update(round: &Self::Round, parameter: f32, gradient: f32, state: Self::State) -> (f32, Self::State);
}

/// Elements per loop iteration. Metering adds a few instructions to each iteration; at 32 elements their cost is hidden
/// by the arithmetic.
pub const UNROLLED_ELEMENTS: usize = 32;

/// Elements that are loaded together. In WebAssembly this is the width of one SIMD operation: the sandbox's compiler
/// keeps loaded values in registers, and there are not enough for more. Native compilers produce the best code with a
/// whole iteration.
pub(crate) const LANES: usize = if cfg!(target_arch = "wasm32") { 4 } else { UNROLLED_ELEMENTS };

/// The state of one parameter; implemented for `[f32; N]`.
pub trait State: Copy + 'static {
    /// The slots of the state: `[Slot; N]`.
    type Slots: AsRef<[Slot]>;

    /// Number of slots.
    const COUNT: usize;

    /// Runs `update` for every element. All runs have equal length; `slots` contains [`COUNT`](Self::COUNT) runs.
    #[doc(hidden)]
    fn visit(
        parameters: &mut [f32],
        gradient: &[f32],
        slots: &mut [&mut [f32]],
        update: impl Fn(f32, f32, Self) -> (f32, Self),
    );

    /// Runs `update` for every element that a block visits, with the first [`COUNT`](Self::COUNT) slots of the plan.
    #[doc(hidden)]
    fn update_block(block: &mut Block<'_>, update: impl Fn(f32, f32, Self) -> (f32, Self)) -> Result<(), String>;
}

impl<const N: usize> State for [f32; N] {
    type Slots = [Slot; N];

    const COUNT: usize = N;

    #[inline(always)]
    fn visit(
        parameters: &mut [f32],
        gradient: &[f32],
        slots: &mut [&mut [f32]],
        update: impl Fn(f32, f32, Self) -> (f32, Self),
    ) {
        let (parameters, parameters_rest) = parameters.as_chunks_mut::<UNROLLED_ELEMENTS>();
        let (gradients, gradient_rest) = gradient.as_chunks::<UNROLLED_ELEMENTS>();
        let mut slots = slots.iter_mut();
        let slots: [_; N] = std::array::from_fn(|_| {
            slots.next().map(|slot| slot.as_chunks_mut::<UNROLLED_ELEMENTS>()).unwrap_or_default()
        });
        let blocks = parameters.len();
        assert!(gradients.len() == blocks && slots.iter().all(|slot| slot.0.len() == blocks), "runs differ in length");

        for index in 0..blocks {
            let parameters = &mut parameters[index];
            let gradient = &gradients[index];
            // Copy first, so that the compiler sees that no store can change a later load: only then does it use SIMD.
            let mut group = |group: usize| {
                let lanes = group * LANES..(group + 1) * LANES;
                let mut parameter = [0.0; LANES];
                parameter.copy_from_slice(&parameters[lanes.clone()]);
                let mut state = [[0.0; LANES]; N];
                for slot in 0..N {
                    state[slot].copy_from_slice(&slots[slot].0[index][lanes.clone()]);
                }
                for lane in 0..LANES {
                    let (new_parameter, new_state) = update(
                        parameter[lane],
                        gradient[lanes.start + lane],
                        std::array::from_fn(|slot| state[slot][lane]),
                    );
                    parameter[lane] = new_parameter;
                    for slot in 0..N {
                        state[slot][lane] = new_state[slot];
                    }
                }
                parameters[lanes.clone()].copy_from_slice(&parameter);
                for slot in 0..N {
                    slots[slot].0[index][lanes.clone()].copy_from_slice(&state[slot]);
                }
            };
            group(0);
            if cfg!(target_arch = "wasm32") {
                // Unrolled by hand: metering would charge for each iteration of a loop.
                group(1);
                group(2);
                group(3);
                group(4);
                group(5);
                group(6);
                group(7);
            }
        }

        for index in 0..parameters_rest.len() {
            let (new_parameter, new_state) =
                update(parameters_rest[index], gradient_rest[index], std::array::from_fn(|slot| slots[slot].1[index]));
            parameters_rest[index] = new_parameter;
            for slot in 0..N {
                slots[slot].1[index] = new_state[slot];
            }
        }
    }

    #[inline(always)]
    fn update_block(block: &mut Block<'_>, update: impl Fn(f32, f32, Self) -> (f32, Self)) -> Result<(), String> {
        block.update_first(update)
    }
}
