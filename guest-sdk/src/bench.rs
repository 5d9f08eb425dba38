//! The native side of `stepbox bench overhead --native-crate`: a program that runs an optimizer on request.
//!
//! An author's crate contains the program as an example, `examples/native_bench.rs`:
//!
//! ```no_run
//! # use stepbox_guest::prelude::*;
//! # hyperparameters! { /** Plain descent. */ pub struct Descent {} }
//! # impl Elementwise for Descent {
//! #     const NAME: &'static str = "descent";
//! #     const LEARNING_RATE: f64 = 0.1;
//! #     type State = [f32; 0];
//! #     type Round = f32;
//! #     fn slots(&self) -> [Slot; 0] { [] }
//! #     fn begin(&self, _: &Tensor, context: &Context) -> f32 { context.learning_rate }
//! #     fn update(rate: &f32, parameter: f32, gradient: f32, _: [f32; 0]) -> (f32, [f32; 0]) {
//! #         (parameter - rate * gradient, [])
//! #     }
//! # }
//! fn main() -> std::io::Result<()> {
//!     stepbox_guest::bench::serve::<Descent>()
//! }
//! ```
//!
//! # Protocol
//!
//! A request is one line on standard input; its answer is one line on standard output:
//!
//! | request | action | answer |
//! |---|---|---|
//! | `tensor 128 128` | creates a tensor with these extents and [`parameters`] as its parameters | `ready` |
//! | `steps 20` | runs this many rounds with [`gradient`], the default learning rate and a loss of 1 | `nanoseconds N` |
//! | `digest` | computes the [`digest`] of the parameters | `digest HEX` |
//!
//! A request that fails is answered with `error REASON`. The program exits at the end of its input.

use std::io::{self, BufRead, Write};
use std::time::Instant;

use crate::{Context, Gradient, Hyperparameters, Native, Optimizer, Tensor};

/// Made-up initial values for `elements` parameters, between -1 and 1.
pub fn parameters(elements: usize) -> Vec<f32> {
    made_up(elements, 0)
}

/// A made-up gradient of `elements` elements, between -1 and 1.
pub fn gradient(elements: usize) -> Vec<f32> {
    made_up(elements, 1)
}

/// A digest of the bits of `values`, for checking whether two runs ended with the same values: 64-bit FNV-1a, word by
/// word.
pub fn digest(values: &[f32]) -> u64 {
    values.iter().fold(0xcbf2_9ce4_8422_2325, |digest, value| {
        (digest ^ u64::from(value.to_bits())).wrapping_mul(0x0100_0000_01b3)
    })
}

/// The context of a round: as [`Context::of_round`], with a loss for optimizers that need one.
pub fn context(round: u64, learning_rate: f32) -> Context {
    Context { loss: Some(1.0), ..Context::of_round(round, learning_rate) }
}

/// Answers requests from standard input until it ends. The optimizer has its default hyperparameters.
///
/// # Errors
/// Reading standard input or writing standard output failed.
pub fn serve<O: Optimizer + Hyperparameters>() -> io::Result<()> {
    answer::<O>(io::stdin().lock(), io::stdout().lock())
}

fn answer<O: Optimizer + Hyperparameters>(requests: impl BufRead, mut answers: impl Write) -> io::Result<()> {
    let mut run = None;
    for request in requests.lines() {
        let answer = respond::<O>(&mut run, &request?).unwrap_or_else(|reason| format!("error {reason}"));
        writeln!(answers, "{answer}")?;
        answers.flush()?;
    }
    Ok(())
}

/// A tensor, and the gradient of each of its rounds.
struct Run<O: Optimizer> {
    native: Native<O>,
    gradient: Vec<f32>,
}

fn respond<O: Optimizer + Hyperparameters>(run: &mut Option<Run<O>>, request: &str) -> Result<String, String> {
    let mut words = request.split_whitespace();
    let verb = words.next().unwrap_or_default();
    let numbers = words.map(str::parse).collect::<Result<Vec<u64>, _>>().map_err(|error| error.to_string())?;
    match (verb, &numbers[..], &mut *run) {
        ("tensor", shape, _) => {
            let tensor = Tensor::new("tensor", shape, 0);
            let elements = usize::try_from(tensor.elements()).map_err(|error| error.to_string())?;
            let native = Native::planned(O::default(), tensor, parameters(elements))?.unchecked();
            *run = Some(Run { native, gradient: gradient(elements) });
            Ok("ready".into())
        }
        ("steps", &[count], Some(Run { native, gradient })) => {
            let since = Instant::now();
            for _ in 0..count {
                let context = context(native.rounds() + 1, O::LEARNING_RATE as f32);
                native.try_round(&context, Gradient::Dense(gradient))?;
            }
            Ok(format!("nanoseconds {}", since.elapsed().as_nanos()))
        }
        ("digest", [], Some(Run { native, .. })) => Ok(format!("digest {:016x}", digest(native.parameters()))),
        ("steps" | "digest", _, None) => Err("there is no tensor yet".into()),
        _ => Err(format!("`{request}` is not a request")),
    }
}

fn made_up(elements: usize, seed: u32) -> Vec<f32> {
    let value = |index: usize| {
        let hash = (index as u32).wrapping_mul(0x9e37_79b9) ^ seed.wrapping_mul(0x85eb_ca6b);
        let hash = (hash ^ (hash >> 15)).wrapping_mul(0x2c1b_3c6d);
        (hash >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..elements).map(value).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prelude::*;

    hyperparameters! {
        /** Plain descent. */
        pub struct Descent {
            /** Times the learning rate. */
            factor: f32 = 2.0 in 0.0..,
        }
    }

    impl Elementwise for Descent {
        const NAME: &'static str = "descent";
        const LEARNING_RATE: f64 = 0.25;
        type State = [f32; 0];
        type Round = f32;

        fn slots(&self) -> [Slot; 0] {
            []
        }

        fn begin(&self, _: &Tensor, context: &Context) -> f32 {
            self.factor * context.learning_rate
        }

        fn update(rate: &f32, parameter: f32, gradient: f32, _: [f32; 0]) -> (f32, [f32; 0]) {
            (parameter - rate * gradient, [])
        }
    }

    #[test]
    fn requests_are_answered_line_by_line() {
        let requests = "digest\ntensor 2 3\nsteps 2\ndigest\nsteps\n";
        let mut answers = Vec::new();
        answer::<Descent>(requests.as_bytes(), &mut answers).unwrap();
        let answers = String::from_utf8(answers).unwrap();
        let answers: Vec<_> = answers.lines().collect();
        let expected: Vec<f32> = parameters(6).iter().zip(gradient(6)).map(|(p, g)| p - 0.5 * g - 0.5 * g).collect();
        assert_eq!(answers[0], "error there is no tensor yet");
        assert_eq!(answers[1], "ready");
        assert!(answers[2].strip_prefix("nanoseconds ").is_some_and(|time| time.parse::<u64>().is_ok()), "{answers:?}");
        assert_eq!(answers[3], format!("digest {:016x}", digest(&expected)));
        assert_eq!(answers[4], "error `steps` is not a request");
    }
}
