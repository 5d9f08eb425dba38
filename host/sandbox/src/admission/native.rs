//! The one place where native code is taken from outside.
#![allow(unsafe_code)]

use wasmtime::Engine;
use wasmtime::component::Component;

use crate::admission::cache::Authentic;
use crate::admission::compiler::Compiled;

/// Makes a cache entry's code ready to run. wasmtime checks once more that its version, the engine's settings and the
/// processor fit.
///
/// # Errors
/// They do not.
pub(crate) fn cached(engine: &Engine, entry: &Authentic<'_>) -> wasmtime::Result<Component> {
    // SAFETY: wasmtime asks that the bytes are what `Component::serialize` returned, unchanged. An `Authentic` exists only
    // for bytes whose HMAC was verified, in this very buffer, under a key that nobody but this server's user can read;
    // and `CompileCache::store` authenticates nothing but what `Component::serialize` has just returned. The buffer is
    // borrowed, so nothing changes it in between, and wasmtime copies it.
    unsafe { Component::deserialize(engine, entry.code()) }
}

/// Makes code ready to run that a process of our own compiled. wasmtime checks as above.
///
/// # Errors
/// It was compiled with other settings than the engine's.
pub(crate) fn compiled(engine: &Engine, code: &Compiled) -> wasmtime::Result<Component> {
    // SAFETY: wasmtime asks that the bytes are what `Engine::precompile_component` returned, unchanged. A `Compiled` exists
    // only for what came, whole, through a pipe that nobody else has an end of, from a broker that this process started
    // from its own executable, and to that one through such a pipe from a worker that it started likewise, which sends as
    // code nothing but what that function returned. Whoever could interfere with these processes could with this one. The
    // buffer is borrowed, so nothing changes it in between, and wasmtime copies it.
    unsafe { Component::deserialize(engine, code.code()) }
}
