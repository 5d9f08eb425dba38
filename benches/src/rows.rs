//! What a round costs that touches some rows of a large embedding: it must depend on the rows that are touched, not on
//! those that are there.

use std::time::Instant;

use serde::Serialize;
use stepbox_sandbox::{LocalTensor, LocalTraining, Sandbox, SandboxConfig, StepContext, TensorDescription};

use crate::BenchError;
use crate::Spread;

/// Elements of a row.
const COLUMNS: usize = 16;

/// Rounds before the clock counts.
const WARM_UP: u64 = 3;

/// Rounds that are timed.
const ROUNDS: u64 = 20;

/// What a round costs.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct RowFigures {
    /// Rows of the embedding.
    pub rows: u64,
    /// Rows touched in a round.
    pub touched: u64,
    /// Nanoseconds a touched row.
    pub per_touched_row: Spread,
}

/// Times rounds of a component that visits touched rows, with full rollback, on an embedding of this many rows.
///
/// # Errors
/// The component cannot be run.
pub fn measure(component: &[u8], rows: u64, touched: u64) -> Result<RowFigures, BenchError> {
    let admitted = Sandbox::new(SandboxConfig::default())?.admit(component)?;
    let settings = admitted.configure(None, &[])?;
    let tensor = LocalTensor {
        description: TensorDescription {
            name: "embedding".into(),
            shape: vec![rows, COLUMNS as u64],
            ..TensorDescription::default()
        },
        settings,
        parameters: vec![1.0; rows as usize * COLUMNS],
    };
    // As a server cuts it.
    let mut training = LocalTraining::new(&admitted, vec![tensor], 16 << 20)?;
    let gradient = vec![0.5; touched as usize * COLUMNS];
    let mut times = Vec::new();
    for round in 1..=WARM_UP + ROUNDS {
        // Spread over the whole embedding, other ones in each round, as a vocabulary's are.
        let ids: Vec<u64> = (0..touched).map(|index| (index * rows + round * 7919 % rows) / touched).collect();
        let context = StepContext {
            step: round,
            tensor_step: round,
            learning_rate: 1e-3,
            peak_learning_rate: 1e-3,
            contributors: 1,
            staleness: 0,
            loss: None,
            seed: 0,
        };
        let since = Instant::now();
        training.round_rows(0, &context, &ids, &gradient)?;
        if round > WARM_UP {
            times.push(since.elapsed());
        }
    }
    Ok(RowFigures { rows, touched, per_touched_row: Spread::nanoseconds_per(touched as usize, &times) })
}
