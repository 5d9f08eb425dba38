//! All attacks, by attacker.

mod access;
mod component;
mod credentials;
mod demand;
mod files;
mod flood;
mod peer;
mod publisher;
mod record;
mod revocation;
mod start;
mod truncation;

use std::pin::Pin;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::answer::Answer;
use crate::arena::{After, Arena};
use crate::report::Row;
use crate::threat::Threat;

/// An attack: what it is on, what must come of it, and the attempt.
pub struct Attack {
    /// The threat it is on.
    pub threat: Threat,
    /// What is tried.
    pub name: String,
    /// The codes of which the answer must have one. What the server really answers stands in the report, and an answer
    /// for another reason is not containment.
    pub expected: Vec<&'static str>,
    /// The most memory that the server's process may have resident at any moment of it, in bytes.
    pub memory_ceiling_bytes: u64,
    attempt: Attempt,
}

/// The server's memory before, during and after an attack. This model, its optimizer and 3 workers take some 75 MiB; the
/// limits that bound what a peer or an optimizer can add are in docs/limits.md. An attack for which they add up to more
/// names its own ceiling.
const MEMORY_CEILING_BYTES: u64 = 256 << 20;

type Attempt = Box<dyn for<'a> Fn(&'a mut Arena) -> Attempting<'a> + Send + Sync>;

/// An attack under way.
pub type Attempting<'a> = Pin<Box<dyn Future<Output = Result<Answer>> + Send + 'a>>;

impl Attack {
    fn new(
        threat: Threat,
        name: impl Into<String>,
        expected: &[&'static str],
        attempt: impl for<'a> Fn(&'a mut Arena) -> Attempting<'a> + Send + Sync + 'static,
    ) -> Self {
        Self {
            threat,
            name: name.into(),
            expected: expected.to_vec(),
            memory_ceiling_bytes: MEMORY_CEILING_BYTES,
            attempt: Box::new(attempt),
        }
    }

    /// Makes it, while everybody trains, and looks at what is left.
    ///
    /// # Errors
    /// The attack could not be made at all, which says nothing about the server.
    pub async fn make(&self, arena: &mut Arena) -> Result<Row> {
        let started = Instant::now();
        crate::raw::move_on();
        let before = arena.begin();
        let answer = (self.attempt)(arena).await;
        let after = arena.end(&before).await;
        Ok(self.row(answer, &after, started.elapsed()))
    }

    fn row(&self, answer: Result<Answer>, after: &After, duration: Duration) -> Row {
        let (outcome, contained) = match answer {
            Ok(Answer { code, words }) => {
                let contained = self.expected.contains(&code.as_str());
                (if words.is_empty() { code } else { format!("{code}: {words}") }, contained)
            }
            Err(error) => (format!("the attack could not be made: {error:#}"), false),
        };
        Row {
            threat: self.threat,
            attack: self.name.clone(),
            outcome,
            contained,
            server_healthy: after.unhealthy.is_none(),
            training_went_on: after.disturbed.is_none(),
            expected: self.expected.clone(),
            memory_bounded: after.peak_resident_bytes <= self.memory_ceiling_bytes,
            peak_resident_bytes: after.peak_resident_bytes,
            memory_ceiling_bytes: self.memory_ceiling_bytes,
            rounds: after.rounds,
            seconds: duration.as_secs_f64(),
            remark: after.unhealthy.iter().chain(&after.disturbed).cloned().collect::<Vec<_>>().join("; "),
        }
    }
}

/// Every attack, by threat.
pub fn all() -> Vec<Attack> {
    let mut attacks = [
        access::attacks(),
        publisher::attacks(),
        record::attacks(),
        revocation::attacks(),
        component::attacks(),
        credentials::attacks(),
        peer::attacks(),
        flood::attacks(),
        demand::attacks(),
        files::attacks(),
        truncation::attacks(),
        start::attacks(),
    ]
    .into_iter()
    .flatten()
    .collect::<Vec<_>>();
    attacks.sort_by_key(|attack| attack.threat);
    attacks
}
