//! The component's side of the contract: turns the server's calls into calls of an [`Elementwise`] optimizer.
//!
//! Only compiled for WebAssembly. [`register!`](crate::register) makes the exports from it.

use crate::elementwise::run_block;
use crate::memory::{Memory, Place};
use crate::{Domain, Elementwise, Initial, State, Value};

/// The bindings generated from `wit/v0.1`.
#[allow(missing_docs, unsafe_code, clippy::all)]
pub mod bindings {
    wit_bindgen::generate!({
        path: "../wit/v0.1",
        world: "optimizer-component",
        pub_export_macro: true,
        export_macro_name: "export_component",
        default_bindings_module: "stepbox_guest::component::bindings",
    });
}

use bindings::stepbox::optimizer::types;

/// The name of the only phase of an elementwise optimizer.
const PHASE: &str = "update";

/// An instance of the optimizer `O`: the memory it gave to the server and the slices it knows.
pub struct Instance<O: Elementwise> {
    memory: Memory,
    slices: Vec<Slice<O>>,
}

struct Slice<O: Elementwise> {
    optimizer: O,
    tensor: crate::Tensor,
    parameters: Place,
    slots: Vec<Place>,
    round: Option<O::Round>,
}

impl<O: Elementwise> Default for Instance<O> {
    fn default() -> Self {
        Self { memory: Memory::default(), slices: Vec::new() }
    }
}

impl<O: Elementwise> Instance<O> {
    /// The contract's `describe`.
    pub fn describe() -> types::Description {
        types::Description {
            name: O::NAME.into(),
            documentation: O::DOCUMENTATION.trim().into(),
            learning_rate: types::NumberRange {
                minimum: 0.0,
                maximum: f64::INFINITY,
                minimum_included: true,
                maximum_included: false,
                default: O::LEARNING_RATE,
            },
            hyperparameters: O::schema()
                .into_iter()
                .map(|entry| types::Hyperparameter {
                    name: entry.name.into(),
                    documentation: entry.documentation.trim().into(),
                    domain: domain(entry.domain),
                    per_group: true,
                    schedulable: false,
                })
                .collect(),
            needs_loss: false,
            largest_whole_tensor: 0,
        }
    }

    /// The contract's `plan`.
    pub fn plan(hyperparameters: &[types::Value]) -> Result<types::TensorPlan, String> {
        let optimizer = optimizer::<O>(hyperparameters)?;
        let slots = optimizer.slots();
        Ok(types::TensorPlan {
            slots: slots
                .as_ref()
                .iter()
                .map(|slot| types::Slot {
                    name: slot.name.into(),
                    element: types::ElementType::F32,
                    extent: types::Extent::PerElement,
                    initial: match slot.initial {
                        Initial::Zero => types::Initial::Zero,
                        Initial::Constant(value) => types::Initial::Constant(value),
                        Initial::Parameter => types::Initial::Parameter,
                    },
                })
                .collect(),
            scalars: Vec::new(),
            accumulators: Vec::new(),
            phases: vec![types::Phase { name: PHASE.into(), purpose: types::Purpose::Update }],
            granularity: types::Granularity::Elements,
        })
    }

    /// The contract's `reserve`.
    pub fn reserve(&mut self, bytes: u32) -> Result<u32, String> {
        self.memory.reserve(bytes)
    }

    /// The contract's `bind`.
    pub fn bind(&mut self, slice: types::Slice, hyperparameters: &[types::Value]) -> Result<u32, String> {
        let optimizer = optimizer::<O>(hyperparameters)?;
        if slice.slots.len() != O::State::COUNT {
            return Err(format!("{} slots bound where the plan has {}", slice.slots.len(), O::State::COUNT));
        }
        let place = |view: &types::View| self.memory.place(view.offset, view.elements);
        let parameters = place(&slice.parameters)?;
        let slots = slice.slots.iter().map(place).collect::<Result<Vec<_>, _>>()?;
        let types::Tensor { name, shape, group, tags, identity } = slice.tensor;
        let tensor = crate::Tensor { name, shape, group, tags, identity };
        self.slices.push(Slice { optimizer, tensor, parameters, slots, round: None });
        Ok(self.slices.len() as u32 - 1)
    }

    /// The contract's `rebind`.
    pub fn rebind(&mut self, slice: u32, hyperparameters: &[types::Value]) -> Result<(), String> {
        self.slice(slice)?.optimizer = optimizer::<O>(hyperparameters)?;
        Ok(())
    }

    /// The contract's `begin`.
    pub fn begin(&mut self, slice: u32, context: types::Context) -> Result<(), String> {
        let slice = self.slice(slice)?;
        let context = crate::Context {
            step: context.step,
            tensor_step: context.tensor_step,
            learning_rate: context.learning_rate,
            peak_learning_rate: context.peak_learning_rate,
            contributors: context.contributors,
            staleness: context.staleness,
            loss: context.loss,
            seed: context.seed,
        };
        slice.round = Some(slice.optimizer.begin(&slice.tensor, &context));
        Ok(())
    }

    /// The contract's `step`.
    pub fn step(&mut self, slice: u32, phase: u32, block: types::Block) -> Result<(), String> {
        if phase != 0 || block.rows.is_some() {
            return Err("an elementwise optimizer has one phase and visits no rows".into());
        }
        let gradient = self.memory.place(block.gradient, block.elements)?;
        let slice = self.slices.get(slice as usize).ok_or("no such slice")?;
        let round = slice.round.as_ref().ok_or("step before begin")?;
        let (start, elements) = (block.start as usize, block.elements as usize);
        let part = |place: &Place| place.part(start, elements).ok_or("the block leaves the slice");
        let parameters = part(&slice.parameters)?;
        let slots = slice.slots.iter().map(part).collect::<Result<Vec<_>, _>>()?;
        self.memory.block(&parameters, &slots, &gradient, |parameters, gradient, slots| {
            run_block::<O>(round, parameters, gradient, slots)
        })
    }

    fn slice(&mut self, slice: u32) -> Result<&mut Slice<O>, String> {
        self.slices.get_mut(slice as usize).ok_or_else(|| "no such slice".into())
    }
}

fn optimizer<O: Elementwise>(hyperparameters: &[types::Value]) -> Result<O, String> {
    let values = hyperparameters
        .iter()
        .map(|value| match value {
            types::Value::Number(number) => Ok(Value::Number(*number)),
            types::Value::Integer(integer) => Ok(Value::Integer(*integer)),
            types::Value::Boolean(boolean) => Ok(Value::Boolean(*boolean)),
            types::Value::Choice(_) => Err("no hyperparameter is a choice"),
        })
        .collect::<Result<Vec<_>, _>>()?;
    O::from_values(&values)
}

fn domain(domain: Domain) -> types::Domain {
    match domain {
        Domain::Number(range) => types::Domain::Number(types::NumberRange {
            minimum: range.minimum,
            maximum: range.maximum,
            minimum_included: range.minimum_included,
            maximum_included: range.maximum_included,
            default: range.default,
        }),
        Domain::Integer(range) => types::Domain::Integer(types::IntegerRange {
            minimum: range.minimum,
            maximum: range.maximum,
            default: range.default,
        }),
        Domain::Boolean(default) => types::Domain::Boolean(default),
    }
}
