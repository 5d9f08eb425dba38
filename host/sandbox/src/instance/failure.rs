//! How a call failed, found out from wasmtime's error.

use thiserror::Error;
use wasmtime::{Trap, WasmBacktrace};

use crate::error::{CallError, CallFailure, ProductError};
use crate::instance::preparation::CallBudget;

/// What a limiter refused: travels through wasmtime as an error and is recognised when it comes back.
#[derive(Debug, Clone, Error)]
#[error("{0}")]
pub(crate) struct LimitReached(pub(crate) CallFailure);

/// What budget a call had, for the message.
#[derive(Debug, Clone, Copy)]
struct Budget {
    fuel: u64,
    milliseconds: u64,
}

/// Finds out from wasmtime's error how a call failed.
fn classify(error: &wasmtime::Error, budget: Budget) -> CallFailure {
    if let Some(LimitReached(failure)) = error.downcast_ref::<LimitReached>() {
        return failure.clone();
    }
    if let Some(failure) = error.downcast_ref::<ProductError>() {
        return CallFailure::Product(failure.clone());
    }
    let wasm_function = || {
        let innermost = error
            .downcast_ref::<WasmBacktrace>()
            .and_then(|trace| trace.frames().iter().find_map(|frame| frame.func_name().map(demangled)));
        innermost.unwrap_or_else(|| "an unnamed function".into())
    };
    match error.downcast_ref::<Trap>() {
        Some(Trap::OutOfFuel) => CallFailure::OutOfFuel { budget: budget.fuel },
        Some(Trap::Interrupt) => CallFailure::Deadline { milliseconds: budget.milliseconds },
        Some(Trap::StackOverflow) => CallFailure::StackOverflow { wasm_function: wasm_function() },
        Some(trap) => CallFailure::Trap { wasm_function: wasm_function(), reason: trap.to_string() },
        // The context around it is wasmtime's backtrace.
        None => CallFailure::Other(error.root_cause().to_string()),
    }
}

/// A Rust symbol as its author wrote it, without the hash; other names as they are.
fn demangled(symbol: &str) -> String {
    format!("{:#}", rustc_demangle::demangle(symbol))
}

pub(crate) fn classified(function: &'static str, error: &wasmtime::Error, budget: CallBudget) -> CallError {
    let budget = Budget { fuel: budget.fuel, milliseconds: budget.deadline_milliseconds };
    CallError { function, failure: classify(error, budget) }
}
