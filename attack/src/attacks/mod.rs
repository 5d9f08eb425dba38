//! All attacks, by attacker.

mod access;
mod component;
mod credentials;
mod files;
mod flood;
mod peer;
mod publisher;
mod record;
mod revocation;
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
    attempt: Attempt,
}

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
        Self { threat, name: name.into(), expected: expected.to_vec(), attempt: Box::new(attempt) }
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
        files::attacks(),
        truncation::attacks(),
    ]
    .into_iter()
    .flatten()
    .collect::<Vec<_>>();
    attacks.sort_by_key(|attack| attack.threat);
    attacks
}
