//! The attempts to get an optimizer into the server that does not belong there.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Serialize;

use super::stepbox::Stepbox;
use super::{Model, Parts, Scene};

/// A version below the one deployed.
const OLDER_VERSION: &str = "1.0.0";

/// A version above the one deployed, so that nothing but the key stands against it.
const NEWER_VERSION: &str = "1.2.0";

/// Version of the hostile guests; they have no older ones.
const HOSTILE_VERSION: &str = "1.0.0";

/// The server's code where signature, publisher or version are not acceptable.
const UNTRUSTED: &str = "untrusted";

/// The server's code where a well-signed component misbehaves when it is tried out.
const NOT_ADMITTED: &str = "not-admitted";

/// An optimizer that must not get in.
pub(super) struct Attempt {
    pub(super) name: &'static str,
    component: PathBuf,
    /// The code it must be refused with: a refusal for another reason would prove nothing.
    expected: &'static str,
}

/// What became of an attempt.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Refusal {
    /// What was tried.
    pub attempt: &'static str,
    /// Whether the server refused it, and for what is wrong with it.
    pub refused: bool,
    /// What the server said.
    pub reason: String,
    /// Whether weights and optimizer are what they were before.
    pub model_unchanged: bool,
}

impl Refusal {
    /// Whether the server did as it must.
    pub fn held(&self) -> bool {
        self.refused && self.model_unchanged
    }
}

/// Makes the files of all attempts.
pub(super) async fn prepare(
    parts: &Parts,
    stepbox: &Stepbox,
    publisher_key: &Path,
    signed: &Path,
) -> Result<Vec<Attempt>> {
    let good = parts.component("adamw")?;
    let unsigned = good.canonicalize()?;

    let mut bytes = fs::read(signed).with_context(|| signed.display().to_string())?;
    // In the middle lies the code.
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    let flipped = stepbox.folder().join("flipped.wasm");
    fs::write(&flipped, bytes).with_context(|| flipped.display().to_string())?;

    let (stranger_key, _) = stepbox.new_key("stranger.key").await?;
    let stranger = stepbox.sign(&good, &stranger_key, "adamw", NEWER_VERSION, "stranger.wasm").await?;
    let older = stepbox.sign(&good, publisher_key, "adamw", OLDER_VERSION, "older.wasm").await?;

    let mut attempts = vec![
        Attempt { name: "unsigned", component: unsigned, expected: UNTRUSTED },
        Attempt { name: "one flipped byte", component: flipped, expected: UNTRUSTED },
        Attempt { name: "unknown key", component: stranger, expected: UNTRUSTED },
        Attempt { name: "older version", component: older, expected: UNTRUSTED },
    ];
    // The publisher is trusted, and yet has signed these.
    for (name, guest) in
        [("loop without end", "endless-loop"), ("memory bomb", "memory-bomb"), ("NaN output", "nan-output")]
    {
        let component = parts.component(&format!("hostile/{guest}"))?;
        let component =
            stepbox.sign(&component, publisher_key, guest, HOSTILE_VERSION, &format!("{guest}.wasm")).await?;
        attempts.push(Attempt { name, component, expected: NOT_ADMITTED });
    }
    Ok(attempts)
}

impl Attempt {
    /// Makes it, and looks at the model afterwards.
    pub(super) async fn make(&self, scene: &Scene, before: &Model) -> Result<Refusal> {
        let answer = scene.deploy(&self.component, &[]).await.with_context(|| format!("attempt `{}`", self.name))?;
        let (refused, reason) = match answer {
            Ok(()) => (false, "the server took it".to_owned()),
            Err(refusal) if refusal.code == self.expected => (true, refusal.message),
            Err(refusal) => (false, format!("refused, but with code {}: {}", refusal.code, refusal.message)),
        };
        let model_unchanged = scene.model().await? == *before;
        Ok(Refusal { attempt: self.name, refused, reason, model_unchanged })
    }
}
