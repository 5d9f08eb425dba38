//! The network: 64 pixels, 128 rectified linear units, 10 classes with softmax and cross-entropy.
//!
//! Every sum runs in a fixed order and `exp` and `ln` come from a library in Rust, so the same examples and parameters
//! give the same bits in every process and on every machine.

use crate::dataset::{CLASSES, Examples, PIXELS};
use crate::random::Stream;

/// Hidden units.
pub const HIDDEN: usize = 128;

/// Seed of the first parameters. Any would do.
const SEED: u64 = 1998;

/// A tensor of the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key {
    /// Under which the server knows it.
    pub name: &'static str,
    /// Extents. Weights have the inputs first, so that all outputs' parts of one input lie side by side.
    pub shape: &'static [u64],
}

/// The network's tensors, in the order in which [`Parameters`] holds them.
pub const KEYS: [Key; 4] = [
    Key { name: "hidden.weight", shape: &[PIXELS as u64, HIDDEN as u64] },
    Key { name: "hidden.bias", shape: &[HIDDEN as u64] },
    Key { name: "output.weight", shape: &[HIDDEN as u64, CLASSES as u64] },
    Key { name: "output.bias", shape: &[CLASSES as u64] },
];

impl Key {
    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.shape.iter().product::<u64>() as usize
    }
}

/// The network's parameters, or a gradient of them: one vector for each of [`KEYS`], row-major.
#[derive(Debug, Clone, PartialEq)]
pub struct Parameters(pub [Vec<f32>; KEYS.len()]);

impl Parameters {
    /// All zero.
    pub fn zero() -> Self {
        Self(KEYS.map(|key| vec![0.0; key.elements()]))
    }

    /// Where training starts, the same in every process: weights uniform with the variance 2 / inputs that keeps
    /// rectified units' scale (He et al., "Delving Deep into Rectifiers", ICCV 2015), biases zero.
    pub fn initial() -> Self {
        let mut parameters = Self::zero();
        let stream = Stream::new(SEED);
        for (number, (key, values)) in (0..).zip(KEYS.iter().zip(&mut parameters.0)) {
            let [inputs, _outputs] = key.shape else { continue };
            let bound = (6.0 / *inputs as f32).sqrt();
            let stream = stream.branch(number);
            for (position, value) in (0..).zip(values) {
                *value = bound * stream.symmetric(position);
            }
        }
        parameters
    }

    /// The share of `examples` whose digit is the class with the highest score.
    pub fn accuracy(&self, examples: &Examples) -> f64 {
        let mut layers = Layers::default();
        let right = examples
            .iter()
            .filter(|(pixels, label)| {
                layers.forward(self, pixels);
                layers.best() == usize::from(*label)
            })
            .count();
        right as f64 / examples.len().max(1) as f64
    }

    /// Mean cross-entropy over the examples at `indices`, which are not empty, and its gradient.
    pub fn loss_and_gradient(&self, examples: &Examples, indices: &[usize]) -> (f64, Self) {
        let mut gradient = Self::zero();
        let mut layers = Layers::default();
        let mut loss = 0.0;
        for index in indices {
            let (pixels, label) = examples.at(*index);
            layers.forward(self, pixels);
            loss += layers.loss_into_scores(usize::from(label));
            layers.backward(self, pixels, &mut gradient);
        }
        let share = 1.0 / indices.len() as f32;
        gradient.0.iter_mut().flatten().for_each(|value| *value *= share);
        (loss / indices.len() as f64, gradient)
    }
}

/// What one example makes the network hold.
struct Layers {
    hidden: [f32; HIDDEN],
    /// Scores of the classes; after [`Layers::loss_into_scores`] the loss's derivatives by them.
    scores: [f32; CLASSES],
}

impl Default for Layers {
    fn default() -> Self {
        Self { hidden: [0.0; HIDDEN], scores: [0.0; CLASSES] }
    }
}

impl Layers {
    fn forward(
        &mut self,
        Parameters([hidden_weight, hidden_bias, output_weight, output_bias]): &Parameters,
        pixels: &[f32; PIXELS],
    ) {
        self.hidden.copy_from_slice(hidden_bias);
        for (pixel, row) in pixels.iter().zip(hidden_weight.as_chunks::<HIDDEN>().0) {
            add_scaled(&mut self.hidden, *pixel, row);
        }
        self.hidden.iter_mut().for_each(|unit| *unit = unit.max(0.0));

        self.scores.copy_from_slice(output_bias);
        for (unit, row) in self.hidden.iter().zip(output_weight.as_chunks::<CLASSES>().0) {
            add_scaled(&mut self.scores, *unit, row);
        }
    }

    fn best(&self) -> usize {
        let scores = self.scores.iter().enumerate();
        scores.max_by(|(_, left), (_, right)| left.total_cmp(right)).map_or(0, |(class, _)| class)
    }

    /// The cross-entropy of the softmax; leaves its derivatives in the scores' place.
    fn loss_into_scores(&mut self, label: usize) -> f64 {
        let highest = self.scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let shifted = self.scores.map(|score| score - highest);
        let exponentials = shifted.map(libm::expf);
        let sum: f32 = exponentials.iter().sum();
        self.scores = exponentials.map(|exponential| exponential / sum);
        self.scores[label] -= 1.0;
        f64::from(libm::logf(sum) - shifted[label])
    }

    /// Adds this example's part to the gradient.
    fn backward(&self, parameters: &Parameters, pixels: &[f32; PIXELS], gradient: &mut Parameters) {
        let Parameters([_, _, output_weight, _]) = parameters;
        let Parameters([hidden_weight_gradient, hidden_bias_gradient, output_weight_gradient, output_bias_gradient]) =
            gradient;
        let mut units = [0.0; HIDDEN];
        let rows = output_weight.as_chunks::<CLASSES>().0.iter();
        let row_gradients = output_weight_gradient.as_chunks_mut::<CLASSES>().0.iter_mut();
        for (((unit, derivative), row), row_gradient) in self.hidden.iter().zip(&mut units).zip(rows).zip(row_gradients)
        {
            // A unit that was cut off at zero has no part in the loss.
            if *unit > 0.0 {
                add_scaled(row_gradient, *unit, &self.scores);
                *derivative = row.iter().zip(&self.scores).map(|(weight, score)| weight * score).sum();
            }
        }
        add_scaled(output_bias_gradient, 1.0, &self.scores);
        for (pixel, row_gradient) in pixels.iter().zip(hidden_weight_gradient.as_chunks_mut::<HIDDEN>().0) {
            add_scaled(row_gradient, *pixel, &units);
        }
        add_scaled(hidden_bias_gradient, 1.0, &units);
    }
}

fn add_scaled(to: &mut [f32], factor: f32, values: &[f32]) {
    for (to, value) in to.iter_mut().zip(values) {
        *to += factor * value;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataset::Digits;

    /// Which hidden units are cut off, for each example.
    fn cut_off(parameters: &Parameters, examples: &Examples, indices: &[usize]) -> Vec<[bool; HIDDEN]> {
        let mut layers = Layers::default();
        let cut_off = |index: &usize| {
            layers.forward(parameters, examples.at(*index).0);
            layers.hidden.map(|unit| unit == 0.0)
        };
        indices.iter().map(cut_off).collect()
    }

    /// Central differences of the loss, whose own rounding allows no less than the tolerances below.
    #[test]
    fn the_gradient_is_the_slope_of_the_loss() {
        const STEP: f32 = 2e-3;
        let examples = Digits::load().unwrap().training;
        let indices: Vec<usize> = (0..20).collect();
        let mut parameters = Parameters::initial();
        // Away from zero, so that biases are no special case.
        [1, 3].iter().for_each(|bias: &usize| parameters.0[*bias].fill(0.1));
        let (_, gradient) = parameters.loss_and_gradient(&examples, &indices);

        for (tensor, key) in KEYS.iter().enumerate() {
            let mut checked = 0;
            for position in (0..key.elements()).step_by(key.elements().div_ceil(200)) {
                let [up, down] = [STEP, -STEP].map(|step| {
                    let mut moved = parameters.clone();
                    moved.0[tensor][position] += step;
                    let loss = moved.loss_and_gradient(&examples, &indices).0;
                    (loss, cut_off(&moved, &examples, &indices))
                });
                // Where a unit switches on or off in between, the loss has a kink and no slope.
                if up.1 != down.1 {
                    continue;
                }
                let slope = (up.0 - down.0) / f64::from(2.0 * STEP);
                let found = f64::from(gradient.0[tensor][position]);
                assert!(
                    (slope - found).abs() < 2e-4 + 0.01 * slope.abs(),
                    "{}[{position}]: {found}, {slope}",
                    key.name
                );
                checked += usize::from(slope.abs() > 5e-3);
            }
            assert!(checked >= 10, "only {checked} elements of {} have a slope to speak of", key.name);
        }
    }

    #[test]
    fn one_step_down_the_gradient_lowers_the_loss_as_predicted() {
        const STEP: f32 = 1e-3;
        let examples = Digits::load().unwrap().training;
        let indices: Vec<usize> = (0..200).collect();
        let parameters = Parameters::initial();
        let (before, gradient) = parameters.loss_and_gradient(&examples, &indices);
        let mut moved = parameters.clone();
        for (value, slope) in moved.0.iter_mut().flatten().zip(gradient.0.iter().flatten()) {
            *value -= STEP * slope;
        }
        let predicted: f64 = gradient.0.iter().flatten().map(|slope| f64::from(slope * slope)).sum::<f64>() * 1e-3;
        let found = before - moved.loss_and_gradient(&examples, &indices).0;
        assert!((found / predicted - 1.0).abs() < 0.1, "predicted {predicted}, found {found}");
    }

    #[test]
    fn the_beginning_is_the_same_each_time_and_knows_nothing() {
        let parameters = Parameters::initial();
        assert_eq!(parameters, Parameters::initial());
        let held_out = Digits::load().unwrap().held_out;
        let accuracy = parameters.accuracy(&held_out);
        assert!(accuracy < 0.3, "{accuracy} without any training");
    }
}
