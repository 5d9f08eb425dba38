//! A hostile guest that returns strings that are far too long, or not text, wherever a string can be returned. The
//! tricks select the string: `A` the name of the optimizer; `B` its documentation; `C` a hyperparameter's name; `D` its
//! documentation; the name of `E` a choice, `F` a slot, `G` an accumulator, `H` a phase; errors of `I` plan, `J`
//! reserve, `K` bind, `L` begin, `M` step; `N` very many short strings; `O` a name with control characters and escape
//! sequences.

#![cfg(target_arch = "wasm32")]

use hostile_kit::{Exports, Otherwise, trick, types};

struct Guest;

/// Four times the permitted length.
fn huge() -> String {
    "x".repeat(4 << 20)
}

fn refusal(of: char) -> Result<(), String> {
    if trick() == of { Err(huge()) } else { Ok(()) }
}

impl Exports for Guest {
    fn describe() -> types::Description {
        let mut description = Otherwise::describe();
        let entry = |name: String, documentation: String, names: Vec<String>| types::Hyperparameter {
            name,
            documentation,
            domain: types::Domain::Choice(types::Choices { names, default: 0 }),
            per_group: false,
        };
        let short = || String::from("short");
        match trick() {
            'A' => description.name = huge(),
            'B' => description.documentation = huge(),
            'C' => description.hyperparameters = vec![entry(huge(), short(), vec![short()])],
            'D' => description.hyperparameters = vec![entry(short(), huge(), vec![short()])],
            'E' => description.hyperparameters = vec![entry(short(), short(), vec![huge()])],
            'N' => description.hyperparameters = vec![entry(short(), short(), vec![short(); 1 << 20])],
            'O' => description.name = "evil\u{1b}[2J\r\n\u{202e}name".into(),
            _ => {}
        }
        description
    }

    fn plan(hyperparameters: Vec<types::Value>, tensor: types::Tensor) -> Result<types::TensorPlan, String> {
        refusal('I')?;
        let mut plan = Otherwise::plan(hyperparameters, tensor)?;
        match trick() {
            'F' => plan.slots[0].name = huge(),
            'G' => plan.accumulators.push(types::Accumulator {
                name: huge(),
                contributor: types::Contributor::Gradients,
                combination: types::Combination::Sum,
                scope: types::Scope::Tensor,
                contributed_in: 0,
                read_from: 0,
            }),
            'H' => plan.phases[0].name = huge(),
            _ => {}
        }
        Ok(plan)
    }

    fn reserve(bytes: u32) -> Result<u32, String> {
        refusal('J')?;
        Otherwise::reserve(bytes)
    }

    fn bind(slice: types::Slice, hyperparameters: Vec<types::Value>) -> Result<u32, String> {
        refusal('K')?;
        Otherwise::bind(slice, hyperparameters)
    }

    fn begin(slice: u32, phase: u32, context: types::Context) -> Result<(), String> {
        refusal('L')?;
        Otherwise::begin(slice, phase, context)
    }

    fn step(slice: u32, phase: u32, block: types::Block) -> Result<(), String> {
        refusal('M')?;
        Otherwise::step(slice, phase, block)
    }
}

hostile_kit::export!(Guest);
