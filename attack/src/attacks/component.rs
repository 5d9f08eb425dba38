//! Who has a trusted publisher's signature, and uses it for what harms.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use stepbox_trust::sign;
use stepbox_wire::Request;

use super::{Attack, Attempting};
use crate::answer::Answer;
use crate::arena::{Arena, Cast, Compromised, End, Key, When};
use crate::threat::Threat::HostileOptimizer;

/// Where the built hostile guests are, below the components.
const FOLDER: &str = "hostile";

/// Refused when it is tried out.
const NOT_ADMITTED: &str = "not-admitted";

/// Failed in a round that was then as if it had not been.
const ROLLED_BACK: &str = "optimizer-failed, rolled back";

/// Failed where weights to evaluate the model with were asked for, and trained as if nobody had asked.
const EVALUATION_REFUSED: &str = "optimizer-failed, in an evaluation";

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

/// Guests of the tests that harm nobody, and one that does only in a test that changes its allocator.
const NOT_HERE: [&str; 2] = ["loss-probe", "false-allocator"];

/// Guests with several tricks in one component, and how many: their letters are `A` and so on.
const TRICKS: [(&str, u8); 9] = [
    ("early-riser", 3),
    ("endless-exports", 7),
    ("false-evaluation", 6),
    ("false-offsets", 8),
    ("huge-strings", 15),
    ("not-finite", 14),
    ("overflowing-plan", 14),
    ("row-thief", 3),
    ("trespasser", 8),
];

/// What stands in a component before the letter of the trick that it is set to.
const TRICK: &[u8] = b"trick of choice: ";

/// What guests with tricks, and those made like them, call themselves.
const ONE_FOR_ALL: &str = "hostile";

/// The longest that a guest waits before it shows what it is, and some more.
const ROUNDS: u64 = 40;

pub(super) fn attacks(components: &Path) -> Result<Vec<Attack>> {
    let folder = components.join(FOLDER);
    let context = || format!("{}; `cargo xtask guests` builds it", folder.display());
    let mut guests = BTreeSet::new();
    for entry in std::fs::read_dir(&folder).with_context(context)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "wasm")
            && let Some(name) = path.file_stem().and_then(|name| name.to_str())
            && !NOT_HERE.contains(&name)
        {
            guests.insert(name.to_owned());
        }
    }
    let mut attacks = Vec::new();
    for guest in guests {
        let tricks = TRICKS.iter().find(|(name, _)| *name == guest).map_or(0, |(_, tricks)| *tricks);
        let letters = (0..tricks).map(|index| Some(char::from(b'A' + index)));
        for trick in letters.chain((tricks == 0).then_some(None)) {
            // The ledger wants a version of its own for each.
            let version = format!("1.0.{}", attacks.len());
            attacks.push(attack(guest.clone(), trick, version));
        }
    }
    Ok(attacks)
}

fn attack(guest: String, trick: Option<char>, version: String) -> Attack {
    let expected = EXPECTED.iter().find(|(name, _)| *name == guest).map(|(_, expected)| *expected);
    let expected = expected.map_or_else(|| vec![NOT_ADMITTED, ROLLED_BACK], |one| vec![one]);
    let name = match trick {
        Some(trick) => format!("the guest {guest}, trick {trick}"),
        None => format!("the guest {guest}"),
    };
    Attack::new(HostileOptimizer, name, &expected, move |arena| -> Attempting<'_> {
        let signed = signed(&arena.cast, &guest, trick, &version);
        Box::pin(async move { deployed(arena, signed?).await })
    })
}

/// The guest, set to its trick, under the name it gives itself.
fn signed(cast: &Cast, guest: &str, trick: Option<char>, version: &str) -> Result<Vec<u8>> {
    let mut component = cast.component(&format!("{FOLDER}/{guest}"))?;
    let mark = component.windows(TRICK.len()).position(|window| window == TRICK);
    if let (Some(mark), Some(trick)) = (mark, trick) {
        component[mark + TRICK.len()] = trick as u8;
    }
    let name = if mark.is_some() { ONE_FOR_ALL } else { guest };
    Ok(sign(&component, name, version, &cast.publisher)?)
}

/// Deploys a guest; where it is taken, everybody trains with it until it fails. In the end the good optimizer is in use.
async fn deployed(arena: &mut Arena, component: Vec<u8>) -> Result<Answer> {
    let answer = arena.deploy(component).await?;
    // Refused for its name, which is ours to know, it has shown nothing.
    ensure!(!answer.words.contains("calls itself"), "{}", answer.words);
    if answer.code != crate::answer::ACCEPTED {
        return Ok(answer);
    }
    // Some do it only when they are asked for weights to evaluate the model with.
    let asked = tokio::spawn(arena.order(When::AfterPush, |worker, key, _| Box::pin(evaluated(worker, key))));
    let end = arena.train_until_failure(ROUNDS).await;
    arena.replace_optimizer().await?;
    Ok(match end? {
        End::OptimizerFailed { message, rolled_back: true } => Answer::new(ROLLED_BACK, message),
        End::OptimizerFailed { message, rolled_back: false } => {
            Answer::new("optimizer-failed, weights changed", message)
        }
        End::Done => match asked.await?? {
            Answer { code, words } if code == "optimizer-failed" => Answer::new(EVALUATION_REFUSED, words),
            _ => Answer::new("trained", format!("it trained for {ROUNDS} rounds and nothing stopped it")),
        },
    })
}

async fn evaluated(worker: &mut Compromised, key: Key) -> Result<Answer> {
    let pull = Request::Pull { key: key.name.into(), version: 0, evaluation: true };
    worker.peer.try_call(&pull, &[]).await
}
