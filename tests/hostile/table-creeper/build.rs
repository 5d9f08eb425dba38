//! The table gets no maximum of its own: only the server's limit is left.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    // Natively it is built for nothing but the compiler's checks.
    if std::env::var("CARGO_CFG_TARGET_ARCH").is_ok_and(|architecture| architecture == "wasm32") {
        println!("cargo:rustc-link-arg-cdylib=--growable-table");
    }
}
