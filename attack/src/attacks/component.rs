//! Who has a trusted publisher's signature, and uses it for what harms.

use anyhow::{Result, ensure};
use stepbox_corpus::{Guest, bombs, surgery};
use stepbox_trust::sign;
use stepbox_wire::Request;

use super::{Attack, Attempting};
use crate::answer::Answer;
use crate::arena::{Arena, Compromised, End, Key, When};
use crate::threat::Threat::HostileOptimizer;

/// Refused when it is tried out.
const NOT_ADMITTED: &[&str] = &["not-admitted"];

/// Refused since no instance has room for what it asks for. An operator could give more to one that is honest.
const TOO_LARGE: &[&str] = &["busy"];

/// Failed in a round that was then as if it had not been.
const STOPPED: &[&str] = &[ROLLED_BACK];

/// Failed where weights to evaluate the model with were asked for, and trained as if nobody had asked.
const NOT_EVALUATED: &[&str] = &[EVALUATION_REFUSED];

/// Trained, since what it does is no more than it may: write what is its own, or what nobody reads.
const HARMLESS: &[&str] = &[TRAINED];

const ROLLED_BACK: &str = "optimizer-failed, rolled back";
const EVALUATION_REFUSED: &str = "optimizer-failed, in an evaluation";
const TRAINED: &str = "trained";

/// The longest that a guest waits before it shows what it is, and some more.
const ROUNDS: u64 = 40;

/// How often weights to evaluate the model with are asked for, at most once in each key's round.
const EVALUATIONS: usize = 30;

/// A guest set to one of its tricks, and what must become of it.
struct Case {
    trick: Option<char>,
    expected: &'static [&'static str],
}

/// The tricks of these letters, all with the same end.
fn tricks(letters: &'static str, expected: &'static [&'static str]) -> impl Iterator<Item = Case> {
    letters.chars().map(move |trick| Case { trick: Some(trick), expected })
}

/// Every trick of a guest. Whoever adds a guest has to say here what must become of it.
fn cases(guest: Guest) -> Vec<Case> {
    let only = |expected| vec![Case { trick: None, expected }];
    match guest {
        Guest::EndlessLoop
        | Guest::Entangled
        | Guest::ForbiddenImport
        | Guest::GreedyProduct
        | Guest::HugeNames
        | Guest::MemoryBomb
        | Guest::NanOutput
        | Guest::Overwriter
        | Guest::Recursion
        | Guest::TableCreeper
        | Guest::WasiProbe
        | Guest::WasiSleeper => only(NOT_ADMITTED),
        Guest::LateSpender | Guest::LateTrap | Guest::MemoryCreeper | Guest::Scribbler | Guest::SlowPoison => {
            only(STOPPED)
        }
        Guest::EarlyRiser => tricks("ABC", NOT_ADMITTED).collect(),
        Guest::EndlessExports => tricks("ABCDEFHIJL", NOT_ADMITTED).chain(tricks("GK", STOPPED)).collect(),
        Guest::EmptyProduct => tricks("ABC", NOT_ADMITTED).collect(),
        Guest::FalseAllocator => tricks("BCEFG", NOT_ADMITTED).chain(tricks("D", HARMLESS)).collect(),
        Guest::FalseEvaluation => {
            tricks("AF", HARMLESS).chain(tricks("B", STOPPED)).chain(tricks("CDE", NOT_EVALUATED)).collect()
        }
        Guest::FalseFarewell => {
            tricks("AB", NOT_ADMITTED).chain(tricks("C", STOPPED)).chain(tricks("D", HARMLESS)).collect()
        }
        Guest::FalseOffsets => tricks("ABCDEFGH", NOT_ADMITTED).collect(),
        Guest::HugeStrings => tricks("ABCDEFGHIJKLMNO", NOT_ADMITTED).collect(),
        // It spends as much as a parameter says, which here is little.
        Guest::JustShort => only(HARMLESS),
        // It harms nobody: a test asks it what it was told.
        Guest::LossProbe => Vec::new(),
        Guest::NotFinite => tricks("ABCDEFGHIJKLM", STOPPED).chain(tricks("N", HARMLESS)).collect(),
        Guest::OverflowingPlan => tricks("ABCDEFIJKLMN", NOT_ADMITTED).chain(tricks("GH", TOO_LARGE)).collect(),
        // Here all rows are touched in each round, and are its own to change.
        Guest::RowThief => tricks("ABC", HARMLESS).collect(),
        Guest::Trespasser => tricks("ABDFH", STOPPED).chain(tricks("CEG", HARMLESS)).collect(),
        // Of so few keys it can spend little before it takes effect.
        Guest::SlowStarter => tricks("AB", HARMLESS).chain(tricks("C", STOPPED)).collect(),
        // What it says first is what counts, where it is asked once.
        Guest::Turncoat => tricks("AB", HARMLESS).chain(tricks("CDE", NOT_ADMITTED)).collect(),
    }
}

pub(super) fn attacks() -> Vec<Attack> {
    let mut attacks = guests();
    attacks.push(bomb("a compile bomb", bombs::endless));
    attacks.push(bomb("a component of loops too deep to compile", || bombs::nested_loops(10, 5_000)));
    attacks
}

/// A component that is small, and a lot of work for a compiler.
fn bomb(name: &'static str, make: fn() -> Vec<u8>) -> Attack {
    Attack::new(HostileOptimizer, name, NOT_ADMITTED, move |arena| -> Attempting<'_> {
        Box::pin(async move { arena.deploy(sign(&make(), "bomb", "1.0.0", &arena.cast.publisher)?).await })
    })
}

fn guests() -> Vec<Attack> {
    let all = Guest::ALL.iter().flat_map(|guest| cases(*guest).into_iter().map(|case| (*guest, case)));
    // The ledger wants a version of its own for each.
    all.enumerate().map(|(number, (guest, case))| attack(guest, &case, format!("1.0.{number}"))).collect()
}

fn attack(guest: Guest, case: &Case, version: String) -> Attack {
    let name = match case.trick {
        Some(trick) => format!("the guest {}, trick {trick}", guest.name()),
        None => format!("the guest {}", guest.name()),
    };
    let trick = case.trick;
    Attack::new(HostileOptimizer, name, case.expected, move |arena| -> Attempting<'_> {
        let version = version.clone();
        Box::pin(async move {
            let built = arena.cast.component(&format!("hostile/{}", guest.name()))?;
            let built = match guest {
                Guest::TableCreeper => surgery::with_growing_table(built),
                _ => built,
            };
            let component = trick.map_or_else(|| built.clone(), |trick| guest.set_to(trick, built.clone()));
            let signed = sign(&component, guest.own_name(), &version, &arena.cast.publisher)?;
            deployed(arena, signed).await
        })
    })
}

/// Deploys a guest; where it is taken, everybody trains with it until it fails. In the end the good optimizer is in use.
async fn deployed(arena: &mut Arena, component: Vec<u8>) -> Result<Answer> {
    let answer = arena.deploy(component).await?;
    // Refused for its name, which is ours to know, it has shown nothing.
    ensure!(!answer.words.contains("calls itself"), "{}", answer.words);
    if answer.code != crate::answer::ACCEPTED {
        return Ok(answer);
    }
    // Some do it only when they are asked for weights to evaluate the model with, and not at once.
    let orders: Vec<_> = (0..EVALUATIONS)
        .map(|_| arena.order(When::AfterPush, |worker, key, _| Box::pin(evaluated(worker, key))))
        .collect();
    let asked = tokio::spawn(async move {
        let mut last = Answer::new("none", "");
        for order in orders {
            // One that came too late is nobody's any more.
            let Ok(answer) = order.await else { break };
            last = answer;
            if last.code != crate::answer::ACCEPTED {
                break;
            }
        }
        last
    });
    let end = arena.train_until_failure(ROUNDS).await;
    // What is not asked by now is not asked in the next attack's rounds either.
    asked.abort();
    let asked = asked.await.unwrap_or_else(|_| Answer::new(crate::answer::ACCEPTED, ""));
    arena.replace_optimizer().await?;
    Ok(match end? {
        End::OptimizerFailed { message, rolled_back: true } => Answer::new(ROLLED_BACK, message),
        End::OptimizerFailed { message, rolled_back: false } => {
            Answer::new("optimizer-failed, weights changed", message)
        }
        End::Paused { message } => Answer::new("paused", message),
        End::Done => match asked {
            Answer { code, words } if code == "optimizer-failed" => Answer::new(EVALUATION_REFUSED, words),
            Answer { code, .. } => {
                Answer::new(TRAINED, format!("{ROUNDS} rounds and {EVALUATIONS} evaluations: {code}"))
            }
        },
    })
}

async fn evaluated(worker: &mut Compromised, key: Key) -> Result<Answer> {
    let pull = Request::Pull { key: key.name.into(), version: 0, evaluation: true };
    worker.peer.try_call(&pull, &[]).await
}
