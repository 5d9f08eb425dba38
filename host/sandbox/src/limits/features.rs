//! The WebAssembly features that components may use.

use wasmparser::WasmFeatures;

/// What components may use: what compilers of optimizers need, nothing else. Relaxed SIMD gives different bits on different
/// processors; the rest is attack surface. The engine is configured with this very value.
pub(crate) const FEATURES: WasmFeatures = WasmFeatures::COMPONENT_MODEL
    .union(WasmFeatures::FLOATS)
    .union(WasmFeatures::MUTABLE_GLOBAL)
    .union(WasmFeatures::SATURATING_FLOAT_TO_INT)
    .union(WasmFeatures::SIGN_EXTENSION)
    .union(WasmFeatures::MULTI_VALUE)
    .union(WasmFeatures::BULK_MEMORY)
    .union(WasmFeatures::REFERENCE_TYPES)
    .union(WasmFeatures::SIMD);
