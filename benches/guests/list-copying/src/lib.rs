//! AdamW behind the interface that one would write first: tensors in and out as lists, which the canonical ABI copies.
//!
//! The arithmetic and the loop are those of the optimizer `adamw` as the guest SDK compiles it, with its default
//! hyperparameters and to the bit, so that a comparison of the two is one of the interfaces. Everything else is the best
//! the interface allows: the lists that came in are changed in place and handed back.

#![deny(unsafe_code)]

#[cfg(target_arch = "wasm32")]
mod component {
    #[allow(unsafe_code, clippy::all)]
    mod bindings {
        wit_bindgen::generate!({ path: "wit", world: "list-copying", pub_export_macro: true });
    }

    /// Elements a loop iteration handles, which hides the metering of each: as in the guest SDK.
    const UNROLLED_ELEMENTS: usize = 32;

    /// Elements of a SIMD operation.
    const LANES: usize = 4;

    const BETA1: f64 = 0.9;
    const BETA2: f64 = 0.999;
    const EPSILON: f32 = 1e-8;
    const WEIGHT_DECAY: f64 = 0.01;

    struct Component;

    impl bindings::Guest for Component {
        fn step(
            mut parameters: Vec<f32>,
            gradient: Vec<f32>,
            mut mean: Vec<f32>,
            mut variance: Vec<f32>,
            learning_rate: f32,
            step: u64,
        ) -> (Vec<f32>, Vec<f32>, Vec<f32>) {
            let round = Round::new(learning_rate, step);
            let (parameter_runs, parameter_rest) = parameters.as_chunks_mut::<UNROLLED_ELEMENTS>();
            let (gradient_runs, gradient_rest) = gradient.as_chunks::<UNROLLED_ELEMENTS>();
            let (mean_runs, mean_rest) = mean.as_chunks_mut::<UNROLLED_ELEMENTS>();
            let (variance_runs, variance_rest) = variance.as_chunks_mut::<UNROLLED_ELEMENTS>();
            let runs = parameter_runs.iter_mut().zip(gradient_runs).zip(mean_runs).zip(variance_runs);
            for (((parameters, gradient), mean), variance) in runs {
                let mut group = |group: usize| {
                    let lanes = group * LANES..(group + 1) * LANES;
                    round.update(
                        &mut parameters[lanes.clone()],
                        &gradient[lanes.clone()],
                        &mut mean[lanes.clone()],
                        &mut variance[lanes],
                    );
                };
                // Written out: each turn of a loop would be metered.
                group(0);
                group(1);
                group(2);
                group(3);
                group(4);
                group(5);
                group(6);
                group(7);
            }
            let rest = parameter_rest.chunks_mut(LANES).zip(gradient_rest.chunks(LANES));
            let rest = rest.zip(mean_rest.chunks_mut(LANES)).zip(variance_rest.chunks_mut(LANES));
            for (((parameters, gradient), mean), variance) in rest {
                round.update(parameters, gradient, mean, variance);
            }
            (parameters, mean, variance)
        }
    }

    /// What all elements have in common.
    struct Round {
        decay: f32,
        rate: f32,
        /// 1 over the root of the variance's correction.
        root_factor: f32,
    }

    impl Round {
        fn new(learning_rate: f32, step: u64) -> Self {
            let rate = f64::from(learning_rate);
            let mean_correction = 1.0 - libm::pow(BETA1, step as f64);
            let variance_correction = 1.0 - libm::pow(BETA2, step as f64);
            Self {
                decay: (rate * WEIGHT_DECAY) as f32,
                rate: (rate / mean_correction) as f32,
                root_factor: (1.0 / variance_correction.sqrt()) as f32,
            }
        }

        /// Steps at most [`LANES`] elements; all slices are of one length.
        #[inline(always)]
        fn update(&self, parameters: &mut [f32], gradient: &[f32], mean: &mut [f32], variance: &mut [f32]) {
            let (mut old, mut first, mut second) = ([0.0; LANES], [0.0; LANES], [0.0; LANES]);
            let count = parameters.len();
            // Copied first, so that the compiler sees that no store can change a later load: only then does it use SIMD.
            old[..count].copy_from_slice(parameters);
            first[..count].copy_from_slice(mean);
            second[..count].copy_from_slice(variance);
            for lane in 0..count {
                let gradient = gradient[lane];
                first[lane] = BETA1 as f32 * first[lane] + (1.0 - BETA1) as f32 * gradient;
                second[lane] = BETA2 as f32 * second[lane] + (1.0 - BETA2) as f32 * gradient * gradient;
                let denominator = second[lane].sqrt() * self.root_factor + EPSILON;
                old[lane] -= self.decay * old[lane] + self.rate * first[lane] / denominator;
            }
            parameters.copy_from_slice(&old[..count]);
            mean.copy_from_slice(&first[..count]);
            variance.copy_from_slice(&second[..count]);
        }
    }

    #[allow(unsafe_code)]
    mod exports {
        use super::{Component, bindings};

        bindings::export!(Component with_types_in bindings);
    }
}
