//! Every shipped component follows the trajectory of its reference: 200 rounds, gradients scaled by 1 and by 1e-6, and
//! a learning rate that drops.

use std::collections::{BTreeMap, BTreeSet};

use stepbox_optimizer_tests::{Golden, admit, context, shipped};
use stepbox_sandbox::{AdmittedComponent, Limits, LocalTensor, LocalTraining, TensorDescription};

/// Optimizers without a reference trajectory; tests of their properties verify them instead.
const BY_PROPERTIES: [&str; 3] = ["adamw-8bit", "sgld", "soap"];

#[test]
fn components_follow_their_references() {
    let mut components: BTreeMap<String, AdmittedComponent> = BTreeMap::new();
    let mut failures = Vec::new();
    for (file, golden) in Golden::all() {
        let component =
            components.entry(golden.optimizer.clone()).or_insert_with(|| admit(&golden.optimizer, Limits::default()));
        match largest_difference(component, &golden) {
            Ok(difference) if difference <= golden.tolerance => println!("{file}: {difference:.1e}"),
            Ok(difference) => failures.push(format!("{file}: {difference:.1e} instead of {:.0e}", golden.tolerance)),
            Err(error) => failures.push(format!("{file}: {error}")),
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn every_shipped_optimizer_has_a_trajectory_or_is_known_to_be_tested_otherwise() {
    let with_trajectory: BTreeSet<String> = Golden::all().into_iter().map(|(_, golden)| golden.optimizer).collect();
    let without: Vec<_> = shipped().into_iter().filter(|name| !with_trajectory.contains(name)).collect();
    assert_eq!(without, BY_PROPERTIES);
}

fn largest_difference(component: &AdmittedComponent, golden: &Golden) -> Result<f64, String> {
    let given: Vec<_> = golden.hyperparameters.clone().into_iter().collect();
    let settings = component.configure(None, &given).map_err(|error| error.to_string())?;
    let tensors = golden.tensors.iter().enumerate().map(|(index, tensor)| LocalTensor {
        description: TensorDescription {
            name: tensor.name.clone(),
            shape: tensor.shape.clone(),
            identity: tensor.identity,
            ..TensorDescription::default()
        },
        settings: settings.clone(),
        parameters: golden.first_parameters(index),
    });
    let mut training = LocalTraining::new(component, tensors.collect(), 1 << 18).map_err(|error| error.to_string())?;
    let mut checkpoints = golden.checkpoints.iter().peekable();
    let mut largest: f64 = 0.0;
    for round in 1..=200 {
        let context = context(round, golden.learning_rate_of(round));
        let gradients: Vec<Vec<f32>> = (0..golden.tensors.len()).map(|tensor| golden.gradient(round, tensor)).collect();
        match &golden.rows {
            None => training.round(&context, &gradients.iter().map(Vec::as_slice).collect::<Vec<_>>()),
            Some(rows) => rows[round as usize - 1].iter().enumerate().try_for_each(|(tensor, rows)| {
                let columns = gradients[tensor].len() / golden.tensors[tensor].shape[0] as usize;
                let row = |row: &u64| &gradients[tensor][*row as usize * columns..][..columns];
                let values: Vec<f32> = rows.iter().flat_map(row).copied().collect();
                training.round_rows(tensor, &context, rows, &values)
            }),
        }
        .map_err(|error| format!("round {round}: {error}"))?;
        let Some(checkpoint) = checkpoints.next_if(|checkpoint| checkpoint.round == round) else { continue };
        for tensor in 0..golden.tensors.len() {
            let ours = training.parameters(tensor).map_err(|error| error.to_string())?;
            largest = largest.max(golden.difference(tensor, &checkpoint.parameters[tensor], &ours));
            if let Some(evaluation) = &checkpoint.evaluation {
                let ours = training.evaluation(tensor, &context).map_err(|error| error.to_string())?;
                largest = largest.max(golden.difference(tensor, &evaluation[tensor], &ours));
            }
        }
    }
    assert!(checkpoints.next().is_none(), "a checkpoint after the last round");
    Ok(largest)
}
