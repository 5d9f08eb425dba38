//! Several tensors that share accumulators of a group or the model.

use super::{Gradient, Native};
use crate::accumulator::{Contributor, Scope};
use crate::optimizer::learning_rates;
use crate::statistics;
use crate::{Context, Optimizer, Tensor};

/// Tensors that are trained together natively, as a model on a server. For optimizers that combine accumulators over
/// groups or the whole model; [`Native`] is enough for all others.
#[derive(Debug, Clone)]
pub struct NativeModel<O: Optimizer> {
    tensors: Vec<Native<O>>,
}

impl<O: Optimizer> Default for NativeModel<O> {
    fn default() -> Self {
        Self { tensors: Vec::new() }
    }
}

impl<O: Optimizer> NativeModel<O> {
    /// A model without tensors.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a tensor that is stepped with these hyperparameters. Indexes of tensors follow the order of these calls;
    /// accumulators are combined in the order of the tensors' identities.
    ///
    /// # Panics
    /// If the optimizer refuses the tensor.
    pub fn with(mut self, optimizer: O, tensor: Tensor, parameters: Vec<f32>) -> Self {
        self.tensors.push(Native::of_tensor(optimizer, tensor, parameters));
        self
    }

    /// Cuts all tensors; see [`Native::cut`].
    ///
    /// # Panics
    /// As for [`Native::cut`].
    pub fn cut(mut self, slice_elements: usize, block_elements: usize) -> Self {
        self.tensors = self.tensors.into_iter().map(|tensor| tensor.cut(slice_elements, block_elements)).collect();
        self
    }

    /// Runs one round with this learning rate and one gradient for each tensor.
    ///
    /// # Panics
    /// If gradients do not fit, or the optimizer fails.
    pub fn round(&mut self, learning_rate: f32, gradients: &[&[f32]]) {
        let contexts: Vec<_> =
            self.tensors.iter().map(|tensor| Context::of_round(tensor.rounds + 1, learning_rate)).collect();
        let gradients: Vec<_> = gradients.iter().map(|gradient| Gradient::Dense(gradient)).collect();
        if let Err(reason) = self.try_round(&contexts, &gradients) {
            panic!("the round failed: {reason}");
        }
    }

    /// Runs one round with one context and one gradient for each tensor.
    ///
    /// # Errors
    /// As for [`Native::try_round`].
    pub fn try_round(&mut self, contexts: &[Context], gradients: &[Gradient<'_>]) -> Result<(), String> {
        if [contexts.len(), gradients.len()] != [self.tensors.len(); 2] {
            return Err("each tensor needs a context and a gradient".into());
        }
        round(&mut self.tensors, contexts, gradients)
    }

    /// The tensors, in the order in which they were added.
    pub fn tensors(&self) -> &[Native<O>] {
        &self.tensors
    }
}

/// Runs a round of tensors that share accumulators over groups and the model.
pub(super) fn round<O: Optimizer>(
    tensors: &mut [Native<O>],
    contexts: &[Context],
    gradients: &[Gradient<'_>],
) -> Result<(), String> {
    let gradients = tensors
        .iter()
        .zip(gradients)
        .map(|(tensor, gradient)| tensor.prepared(*gradient))
        .collect::<Result<Vec<_>, _>>()?;
    let rates = learning_rates::<O>();
    if let Some(context) = contexts.iter().find(|context| !rates.contains(f64::from(context.learning_rate))) {
        return Err(format!("{} is not a learning rate for {}", context.learning_rate, O::NAME));
    }
    let phases = tensors.iter().map(|tensor| tensor.plan.phases.len()).max().unwrap_or(0);
    tensors.iter_mut().for_each(Native::forget_contributions);
    for phase in 0..phases {
        for (tensor, gradient) in tensors.iter_mut().zip(&gradients) {
            tensor.gather(phase, &gradient.values);
        }
        share(tensors, phase);
        for ((tensor, context), gradient) in tensors.iter_mut().zip(contexts).zip(&gradients) {
            if phase < tensor.plan.phases.len() {
                tensor.run(phase, context, gradient)?;
            }
        }
    }
    for (tensor, context) in tensors.iter_mut().zip(contexts) {
        tensor.rounds += 1;
        tensor.last = Some(*context);
    }
    Ok(())
}

impl<O: Optimizer> Native<O> {
    /// Computes the accumulators of the server that this phase is the first to read.
    fn gather(&mut self, phase: usize, gradient: &[f32]) {
        for (accumulator, combined) in self.plan.accumulators.iter().zip(&mut self.combined) {
            let values = match accumulator.contributor {
                Contributor::Parameters => &self.state.parameters,
                Contributor::Gradients => gradient,
                Contributor::Optimizer => continue,
            };
            if accumulator.first_read() == phase {
                combined[0] = statistics::of_run(accumulator.combination, values);
            }
        }
    }

    fn run(&mut self, phase: usize, context: &Context, gradient: &super::Prepared<'_>) -> Result<(), String> {
        let mut pass = super::Pass {
            optimizer: &self.optimizer,
            tensor: &self.tensor,
            plan: &self.plan,
            phase,
            context,
            cuts: self.cuts,
        };
        pass.update(&mut self.state, &mut self.combined, gradient)?;
        match self.checked.then(|| self.state.not_finite(&self.plan)).flatten() {
            Some(place) => Err(format!("{place} of {} is not finite after phase {phase}", self.tensor.name)),
            None => Ok(()),
        }
    }
}

/// Combines, over the tensors of a group or the model, the accumulators that this phase is the first to read.
fn share<O: Optimizer>(tensors: &mut [Native<O>], phase: usize) {
    let mut order: Vec<usize> = (0..tensors.len()).collect();
    order.sort_by_key(|index| tensors[*index].tensor.identity);
    let shared = |tensor: &Native<O>| -> Vec<(usize, &'static str, Option<String>)> {
        let accumulators = tensor.plan.accumulators.iter().enumerate().filter(|(_, one)| one.first_read() == phase);
        accumulators
            .filter_map(|(position, accumulator)| match accumulator.scope {
                Scope::Group => Some((position, accumulator.name, Some(tensor.tensor.group.clone()))),
                Scope::Model => Some((position, accumulator.name, None)),
                _ => None,
            })
            .collect()
    };
    let mut totals: Vec<((&'static str, Option<String>), f64)> = Vec::new();
    for index in &order {
        let tensor = &tensors[*index];
        for (position, name, group) in shared(tensor) {
            let (own, combination) = (tensor.combined[position][0], tensor.plan.accumulators[position].combination);
            let key = (name, group);
            match totals.iter_mut().find(|(other, _)| *other == key) {
                Some((_, total)) => *total = combination.join(*total, own),
                None => totals.push((key, combination.join(combination.nothing(), own))),
            }
        }
    }
    for tensor in tensors {
        for (position, name, group) in shared(tensor) {
            if let Some((_, total)) = totals.iter().find(|(key, _)| *key == (name, group.clone())) {
                tensor.combined[position][0] = *total;
            }
        }
    }
}
