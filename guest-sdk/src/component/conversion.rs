//! Conversions between the types of the contract and the types of the SDK.

use super::bindings::stepbox::optimizer::types;
use crate::accumulator::{Accumulator, Combination, Contributor, Scope};
use crate::plan::{Granularity, Plan};
use crate::slot::{ElementType, Extent, Initial, StoredSlot};
use crate::{Context, Domain, NumberRange, Tensor, Value};

impl From<NumberRange> for types::NumberRange {
    fn from(range: NumberRange) -> Self {
        let NumberRange { minimum, maximum, minimum_included, maximum_included, default } = range;
        Self { minimum, maximum, minimum_included, maximum_included, default }
    }
}

impl From<Domain> for types::Domain {
    fn from(domain: Domain) -> Self {
        match domain {
            Domain::Number(range) => types::Domain::Number(range.into()),
            Domain::Integer(range) => types::Domain::Integer(types::IntegerRange {
                minimum: range.minimum,
                maximum: range.maximum,
                default: range.default,
            }),
            Domain::Boolean(default) => types::Domain::Boolean(default),
            Domain::Choice(choices) => types::Domain::Choice(types::Choices {
                names: choices.names.iter().map(|name| (*name).into()).collect(),
                default: choices.default as u32,
            }),
        }
    }
}

impl From<&types::Value> for Value {
    fn from(value: &types::Value) -> Self {
        match value {
            types::Value::Number(number) => Self::Number(*number),
            types::Value::Integer(integer) => Self::Integer(*integer),
            types::Value::Boolean(boolean) => Self::Boolean(*boolean),
            types::Value::Choice(choice) => Self::Choice(*choice),
        }
    }
}

impl From<types::Tensor> for Tensor {
    fn from(tensor: types::Tensor) -> Self {
        let types::Tensor { name, shape, group, tags, identity } = tensor;
        Self { name, shape, group, tags, identity }
    }
}

impl From<types::Context> for Context {
    fn from(context: types::Context) -> Self {
        Self {
            step: context.step,
            tensor_step: context.tensor_step,
            learning_rate: context.learning_rate,
            peak_learning_rate: context.peak_learning_rate,
            contributors: context.contributors,
            staleness: context.staleness,
            loss: context.loss,
            seed: context.seed,
        }
    }
}

impl From<Plan> for types::TensorPlan {
    fn from(plan: Plan) -> Self {
        let updates = plan.phases.iter().enumerate().map(|(phase, name)| types::Phase {
            name: (*name).into(),
            purpose: types::Purpose::Update,
            reads_gradient: plan.reads_gradient(phase),
        });
        let evaluation = plan.evaluation.map(|name| types::Phase {
            name: name.into(),
            purpose: types::Purpose::Evaluation,
            reads_gradient: false,
        });
        Self {
            slots: plan.stored_slots().map(types::Slot::from).collect(),
            accumulators: plan.accumulators.iter().map(types::Accumulator::from).collect(),
            phases: updates.chain(evaluation).collect(),
            granularity: match plan.granularity {
                Granularity::Elements => types::Granularity::Elements,
                Granularity::TouchedRows => types::Granularity::TouchedRows,
                Granularity::Tensor => types::Granularity::Tensor,
            },
            work_bytes: plan.work_bytes,
        }
    }
}

impl From<StoredSlot> for types::Slot {
    fn from(slot: StoredSlot) -> Self {
        Self {
            name: slot.name.into_owned(),
            element: match slot.element {
                ElementType::F32 => types::ElementType::F32,
                ElementType::F64 => types::ElementType::F64,
                ElementType::Bf16 => types::ElementType::Bf16,
                ElementType::U8 => types::ElementType::U8,
                ElementType::U32 => types::ElementType::U32,
                ElementType::U64 => types::ElementType::U64,
            },
            extent: match slot.extent {
                Extent::PerElement => types::Extent::PerElement,
                Extent::PerRun(elements) => types::Extent::PerRun(elements),
                Extent::PerRow => types::Extent::PerRow,
                Extent::PerColumn => types::Extent::PerColumn,
                Extent::Scalar => types::Extent::Scalar,
                Extent::Vector(elements) => types::Extent::Explicit(vec![elements]),
                Extent::Matrix(rows, columns) => types::Extent::Explicit(vec![rows, columns]),
            },
            initial: match slot.initial {
                Initial::Zero => types::Initial::Zero,
                Initial::Constant(value) => types::Initial::Constant(value),
                Initial::Parameter => types::Initial::Parameter,
            },
        }
    }
}

impl From<&Accumulator> for types::Accumulator {
    fn from(accumulator: &Accumulator) -> Self {
        Self {
            name: accumulator.name.into(),
            contributor: match accumulator.contributor {
                Contributor::Optimizer => types::Contributor::Optimizer,
                Contributor::Parameters => types::Contributor::Parameters,
                Contributor::Gradients => types::Contributor::Gradients,
            },
            combination: match accumulator.combination {
                Combination::Sum => types::Combination::Sum,
                Combination::SumOfSquares => types::Combination::SumOfSquares,
                Combination::AbsoluteMaximum => types::Combination::AbsoluteMaximum,
                Combination::Maximum => types::Combination::Maximum,
            },
            scope: match accumulator.scope {
                Scope::Row => types::Scope::Row,
                Scope::Column => types::Scope::Column,
                Scope::Tensor => types::Scope::Tensor,
                Scope::Group => types::Scope::Group,
                Scope::Model => types::Scope::Model,
            },
            contributed_in: accumulator.contributed_in as u32,
            read_from: accumulator.first_read() as u32,
        }
    }
}
