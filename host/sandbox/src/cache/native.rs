//! The one place where native code is taken from outside.
#![allow(unsafe_code)]

use wasmtime::Engine;
use wasmtime::component::Component;

use super::entry::Authentic;

/// Makes an entry's code ready to run. wasmtime checks once more that its version, the engine's settings and the
/// processor fit.
///
/// # Errors
/// They do not.
pub(super) fn component(engine: &Engine, entry: &Authentic<'_>) -> wasmtime::Result<Component> {
    // SAFETY: wasmtime asks that the bytes are what `Component::serialize` returned, unchanged. An `Authentic` exists only
    // for bytes whose HMAC was verified, in this very buffer, under a key that nobody but this server's user can read;
    // and `CompileCache::store` authenticates nothing but what `Component::serialize` has just returned. The buffer is
    // borrowed, so nothing changes it in between, and wasmtime copies it.
    unsafe { Component::deserialize(engine, entry.code()) }
}
