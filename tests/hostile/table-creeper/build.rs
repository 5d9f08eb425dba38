//! Links the table without a maximum, so that only the server's limit applies.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    // A native build serves only the compiler's checks.
    if std::env::var("CARGO_CFG_TARGET_ARCH").is_ok_and(|architecture| architecture == "wasm32") {
        println!("cargo:rustc-link-arg-cdylib=--growable-table");
    }
}
