//! The table gets no maximum of its own: only the server's limit is left.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-link-arg-cdylib=--growable-table");
}
