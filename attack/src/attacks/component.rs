//! Who has a trusted publisher's signature, and uses it for what harms.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};

use super::{Attack, Attempting};
use crate::answer::Answer;
use crate::arena::{Arena, End};
use crate::threat::Threat::HostileOptimizer;

/// Where the built hostile guests are, below the components.
const FOLDER: &str = "hostile";

/// Refused when it is tried out.
const NOT_ADMITTED: &str = "not-admitted";

/// Failed in a round that was then as if it had not been.
const ROLLED_BACK: &str = "optimizer-failed, rolled back";

/// What must become of guests. One that does not stand here must be refused or, at the latest, be stopped in its rounds.
const EXPECTED: [(&str, &str); 12] = [
    ("endless-loop", NOT_ADMITTED),
    ("forbidden-import", NOT_ADMITTED),
    ("greedy-product", NOT_ADMITTED),
    ("huge-names", NOT_ADMITTED),
    ("late-trap", ROLLED_BACK),
    ("memory-bomb", NOT_ADMITTED),
    ("nan-output", NOT_ADMITTED),
    ("recursion", NOT_ADMITTED),
    ("scribbler", ROLLED_BACK),
    ("slow-poison", ROLLED_BACK),
    ("wasi-probe", NOT_ADMITTED),
    ("wasi-sleeper", NOT_ADMITTED),
];

/// Guests of the tests that harm nobody.
const HARMLESS: [&str; 1] = ["loss-probe"];

/// The longest that a guest waits before it shows what it is, and some more.
const ROUNDS: u64 = 40;

pub(super) fn attacks(components: &Path) -> Result<Vec<Attack>> {
    let folder = components.join(FOLDER);
    let context = || format!("{}; `cargo xtask guests` builds it", folder.display());
    let mut guests = BTreeMap::new();
    for entry in std::fs::read_dir(&folder).with_context(context)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "wasm")
            && let Some(name) = path.file_stem().and_then(|name| name.to_str())
            && !HARMLESS.contains(&name)
        {
            let expected = EXPECTED.iter().find(|(guest, _)| *guest == name).map(|(_, expected)| *expected);
            guests.insert(name.to_owned(), expected.map_or_else(|| vec![NOT_ADMITTED, ROLLED_BACK], |one| vec![one]));
        }
    }
    Ok(guests.into_iter().map(|(guest, expected)| attack(guest, &expected)).collect())
}

fn attack(guest: String, expected: &[&'static str]) -> Attack {
    let component = format!("{FOLDER}/{guest}");
    Attack::new(HostileOptimizer, format!("the guest {guest}"), expected, move |arena| -> Attempting<'_> {
        let component = component.clone();
        Box::pin(async move { deployed(arena, &component).await })
    })
}

/// Deploys a guest; where it is taken, everybody trains with it until it fails. In the end the good optimizer is in use.
async fn deployed(arena: &mut Arena, component: &str) -> Result<Answer> {
    let answer = arena.deploy(arena.cast.signed(component, "1.0.0")?).await?;
    if answer.code != crate::answer::ACCEPTED {
        return Ok(answer);
    }
    let end = arena.train_until_failure(ROUNDS).await;
    arena.replace_optimizer().await?;
    Ok(match end? {
        End::Done => Answer::new("trained", format!("it trained for {ROUNDS} rounds and nothing stopped it")),
        End::OptimizerFailed { message, rolled_back: true } => Answer::new(ROLLED_BACK, message),
        End::OptimizerFailed { message, rolled_back: false } => {
            Answer::new("optimizer-failed, weights changed", message)
        }
    })
}
