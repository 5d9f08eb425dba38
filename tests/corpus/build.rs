//! Generates an enumeration of the folders of `tests/hostile`. A new folder requires an attack that tests it; otherwise
//! the tests do not compile.

use std::path::Path;
use std::{env, fs, io};

fn main() -> io::Result<()> {
    let folder = "../hostile";
    // Added and removed entries change the folder itself.
    println!("cargo:rerun-if-changed={folder}");
    let mut names = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.path().join("Cargo.toml").is_file() {
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    names.sort();
    let variants: Vec<_> = names.iter().map(|name| camel(name)).collect();
    let documented: String = variants
        .iter()
        .zip(&names)
        .map(|(variant, name)| format!("/// `tests/hostile/{name}`.\n{variant},\n"))
        .collect();
    let arms: String =
        variants.iter().zip(&names).map(|(variant, name)| format!("Self::{variant} => {name:?},\n")).collect();
    let all: String = variants.iter().map(|variant| format!("Self::{variant},\n")).collect();
    let source = format!(
        "/// A hostile guest: one for each folder of `tests/hostile`.\n\
         #[derive(Debug, Clone, Copy, PartialEq, Eq)]\npub enum Guest {{\n{documented}}}\n\
         impl Guest {{\n/// All hostile guests.\npub const ALL: &[Self] = &[\n{all}];\n\
         /// The name of the guest's folder.\npub fn name(self) -> &'static str {{\nmatch self {{\n{arms}}}\n}}\n}}\n"
    );
    let target = env::var("OUT_DIR").map_err(io::Error::other)?;
    fs::write(Path::new(&target).join("guests.rs"), source)
}

/// Converts `endless-loop` to `EndlessLoop`.
fn camel(name: &str) -> String {
    let capital = |word: &str| word[..1].to_uppercase() + &word[1..];
    name.split('-').filter(|word| !word.is_empty()).map(capital).collect()
}
