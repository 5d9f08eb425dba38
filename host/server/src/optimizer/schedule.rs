//! Learning-rate schedules: pure functions of the number of rounds since the schedule started.
//!
//! With *n* for that number (1 in the first round), *w* for the warm-up's rounds (at least 1), *t* = *n* − *w* and
//! *T* = `rounds` + 1 − *w*, the rate is the peak times
//!
//! - *s n / w* in the warm-up, where *n* < *w* and *s* is what the rest starts with: 1, except for one-cycle;
//! - from *n* = *w* on, what the kind says:
//!
//! | kind | share of the peak | without warm-up the same as |
//! |---|---|---|
//! | constant | 1 | `ConstantLR` with factor 1 of PyTorch, `constant_schedule` of optax |
//! | step | `gamma` ^ ⌊*t* / `step_rounds`⌋ | `StepLR(step_size, gamma)`, `exponential_decay(staircase=True)` |
//! | cosine | *f* + (1 − *f*) (1 + cos(π *t* / *T*)) / 2, *f* = `final_ratio` | `CosineAnnealingLR(T_max=rounds)`, `cosine_decay_schedule(alpha=f)`; one period of SGDR (arXiv:1608.03983), without restarts |
//! | linear | 1 − (1 − *f*) *t* / *T* | `LinearLR(1, f, total_iters=rounds)`, `linear_schedule` |
//! | one-cycle | half a cosine from *s* = 1 / `div_factor` to 1 for *t* ≤ ⌊`pct_start` *T*⌋, then one to *s* / `final_div_factor` at *t* = *T* | `cosine_onecycle_schedule`; the policy of arXiv:1708.07120. PyTorch's `OneCycleLR` ends one round earlier |
//! | inverse square root | √(*w* / *n*) | arXiv:1706.03762, equation 3, scaled to its peak |
//!
//! After *t* = *T* those that have an end stay there; the others stop at the smallest normal `f32`. With a warm-up, cosine is optax's
//! `warmup_cosine_decay_schedule(peak / w, peak, w - 1, rounds)`: the peak is reached in round *w*, and the first round is
//! not wasted on a rate of 0. Everything is computed in `f64`.

use std::f64::consts::PI;

use stepbox_wire::ScheduleKind;
use thiserror::Error;

/// A schedule that has been checked.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Schedule {
    peak: f64,
    form: stepbox_wire::Schedule,
}

/// A schedule that is none. The fault of whoever set it.
#[derive(Debug, Clone, PartialEq, Error)]
#[error("schedule: {name} = {given} cannot be: it must be {wanted}")]
pub(crate) struct ScheduleError {
    name: &'static str,
    given: String,
    wanted: String,
}

impl Schedule {
    /// Checks the form. Whether the peak is within range is for the optimizer to say.
    pub fn new(peak: f64, form: stepbox_wire::Schedule) -> Result<Self, ScheduleError> {
        let share = |name, value: f64| check(name, value, (0.0..=1.0).contains(&value), "from 0 to 1");
        let divisor = |name, value: f64| check(name, value, value >= 1.0 && value.is_finite(), "at least 1");
        match form.kind {
            ScheduleKind::Constant | ScheduleKind::InverseSquareRoot => {}
            ScheduleKind::Step { step_rounds, gamma } => {
                check("step_rounds", step_rounds, step_rounds > 0, "at least 1")?;
                check("gamma", gamma, gamma > 0.0 && gamma <= 1.0, "above 0 and at most 1")?;
            }
            ScheduleKind::Cosine { final_ratio, .. } | ScheduleKind::Linear { final_ratio, .. } => {
                share("final_ratio", final_ratio)?;
            }
            ScheduleKind::OneCycle { pct_start, div_factor, final_div_factor, .. } => {
                share("pct_start", pct_start)?;
                divisor("div_factor", div_factor)?;
                divisor("final_div_factor", final_div_factor)?;
            }
        }
        if let Some(rounds) = rounds(form.kind) {
            let warmup = form.warmup_rounds.max(1);
            check("rounds", rounds, rounds >= warmup, "at least 1, and no less than warmup_rounds")?;
        }
        Ok(Self { peak, form })
    }

    /// The same rate for ever.
    #[cfg(test)]
    pub fn constant(learning_rate: f64) -> Self {
        Self { peak: learning_rate, form: stepbox_wire::Schedule::default() }
    }

    /// The largest rate.
    pub fn peak(&self) -> f64 {
        self.peak
    }

    /// As it was given.
    pub fn form(&self) -> stepbox_wire::Schedule {
        self.form
    }

    /// The rate in the schedule's round of this number, which counts from 1.
    pub fn rate(&self, round: u64) -> f64 {
        let (round, warmup) = (round.max(1), self.warmup());
        let share =
            if round < warmup { self.share(0) * round as f64 / warmup as f64 } else { self.share(round - warmup) };
        (self.peak * share).max(self.floor())
    }

    /// A rate that no round's is below; of schedules that fall for ever, above zero.
    pub fn lowest(&self) -> f64 {
        let last = match self.form.kind {
            ScheduleKind::Step { gamma: 1.0, .. } | ScheduleKind::Constant => self.peak,
            ScheduleKind::Step { .. } | ScheduleKind::InverseSquareRoot => self.floor(),
            ScheduleKind::Cosine { rounds, .. }
            | ScheduleKind::Linear { rounds, .. }
            | ScheduleKind::OneCycle { rounds, .. } => self.rate(rounds.saturating_add(1)),
        };
        last.min(self.rate(1))
    }

    /// Where schedules that fall for ever stop, so that what optimizers are given as `f32` stays above zero.
    fn floor(&self) -> f64 {
        match self.form.kind {
            ScheduleKind::Step { .. } | ScheduleKind::InverseSquareRoot => self.peak.min(f32::MIN_POSITIVE.into()),
            _ => 0.0,
        }
    }

    fn warmup(&self) -> u64 {
        self.form.warmup_rounds.max(1)
    }

    /// The share of the peak, `t` rounds after the warm-up's end.
    fn share(&self, t: u64) -> f64 {
        let warmup = self.warmup();
        let length = |rounds: u64| rounds.saturating_add(1) - warmup;
        // How far it is on the way to the end, from 0 to 1.
        let done = |rounds| (t as f64 / length(rounds) as f64).min(1.0);
        match self.form.kind {
            ScheduleKind::Constant => 1.0,
            ScheduleKind::Step { step_rounds, gamma } => gamma.powf((t / step_rounds) as f64),
            ScheduleKind::Cosine { rounds, final_ratio } => half_cosine(1.0, final_ratio, done(rounds)),
            ScheduleKind::Linear { rounds, final_ratio } => between(1.0, final_ratio, done(rounds)),
            ScheduleKind::OneCycle { rounds, pct_start, div_factor, final_div_factor } => {
                let start = 1.0 / div_factor;
                let length = length(rounds);
                let rising = ((pct_start * length as f64) as u64).min(length);
                if t < rising {
                    half_cosine(start, 1.0, t as f64 / rising as f64)
                } else {
                    let falling = (length - rising).max(1);
                    half_cosine(1.0, start / final_div_factor, ((t - rising) as f64 / falling as f64).min(1.0))
                }
            }
            ScheduleKind::InverseSquareRoot => (warmup as f64 / (warmup as f64 + t as f64)).sqrt(),
        }
    }
}

/// The value `done` (from 0 to 1) of the way along half a cosine.
fn half_cosine(from: f64, to: f64, done: f64) -> f64 {
    between(to, from, (1.0 + (PI * done).cos()) / 2.0)
}

/// Exact at both ends.
fn between(from: f64, to: f64, done: f64) -> f64 {
    from * (1.0 - done) + to * done
}

/// Until when the schedule moves, where it ends at all.
fn rounds(kind: ScheduleKind) -> Option<u64> {
    match kind {
        ScheduleKind::Cosine { rounds, .. }
        | ScheduleKind::Linear { rounds, .. }
        | ScheduleKind::OneCycle { rounds, .. } => Some(rounds),
        ScheduleKind::Constant | ScheduleKind::Step { .. } | ScheduleKind::InverseSquareRoot => None,
    }
}

fn check(name: &'static str, value: impl ToString, holds: bool, wanted: &str) -> Result<(), ScheduleError> {
    if holds { Ok(()) } else { Err(ScheduleError { name, given: value.to_string(), wanted: wanted.to_owned() }) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PEAK: f64 = 0.4;

    fn schedule(warmup_rounds: u64, kind: ScheduleKind) -> Schedule {
        Schedule::new(PEAK, stepbox_wire::Schedule { warmup_rounds, kind }).expect("a schedule")
    }

    fn close(found: f64, expected: f64) -> bool {
        (found - expected).abs() <= 1e-12 * expected.abs().max(1e-12)
    }

    /// Rounds and rates by hand, or as PyTorch 2 and optax compute them.
    #[test]
    fn each_kind_has_the_values_of_its_reference() {
        let root = std::f64::consts::FRAC_1_SQRT_2;
        let one_cycle = ScheduleKind::OneCycle { rounds: 10, pct_start: 0.4, div_factor: 4.0, final_div_factor: 100.0 };
        for (warmup, kind, expected) in [
            (0, ScheduleKind::Constant, vec![(1, 1.0), (1000, 1.0)]),
            (4, ScheduleKind::Constant, vec![(1, 0.25), (2, 0.5), (3, 0.75), (4, 1.0), (5, 1.0)]),
            (
                0,
                ScheduleKind::Step { step_rounds: 3, gamma: 0.1 },
                vec![(1, 1.0), (3, 1.0), (4, 0.1), (6, 0.1), (7, 0.01)],
            ),
            (2, ScheduleKind::Step { step_rounds: 3, gamma: 0.5 }, vec![(1, 0.5), (2, 1.0), (4, 1.0), (5, 0.5)]),
            (
                0,
                ScheduleKind::Cosine { rounds: 4, final_ratio: 0.0 },
                vec![(1, 1.0), (2, (1.0 + root) / 2.0), (3, 0.5), (4, (1.0 - root) / 2.0), (5, 0.0), (99, 0.0)],
            ),
            (
                3,
                ScheduleKind::Cosine { rounds: 6, final_ratio: 0.1 },
                vec![(1, 1.0 / 3.0), (2, 2.0 / 3.0), (3, 1.0), (5, 0.55), (7, 0.1), (8, 0.1)],
            ),
            (
                0,
                ScheduleKind::Linear { rounds: 4, final_ratio: 0.2 },
                vec![(1, 1.0), (2, 0.8), (3, 0.6), (4, 0.4), (5, 0.2), (6, 0.2)],
            ),
            (
                0,
                one_cycle,
                vec![(1, 0.25), (3, 0.625), (5, 1.0), (8, (1.0 + 0.0025) / 2.0), (11, 0.0025), (12, 0.0025)],
            ),
            (2, one_cycle, vec![(1, 0.125), (2, 0.25), (5, 1.0), (11, 0.0025)]),
            (0, ScheduleKind::InverseSquareRoot, vec![(1, 1.0), (4, 0.5), (100, 0.1)]),
            (4, ScheduleKind::InverseSquareRoot, vec![(1, 0.25), (4, 1.0), (16, 0.5)]),
        ] {
            let schedule = schedule(warmup, kind);
            for (round, share) in expected {
                let found = schedule.rate(round);
                assert!(close(found, PEAK * share), "{kind:?}, warm-up {warmup}, round {round}: {found}");
            }
        }
    }

    #[test]
    fn what_is_no_schedule_is_refused_by_name() {
        let cosine = |rounds, final_ratio| ScheduleKind::Cosine { rounds, final_ratio };
        let one_cycle = |pct_start, div_factor, final_div_factor| ScheduleKind::OneCycle {
            rounds: 10,
            pct_start,
            div_factor,
            final_div_factor,
        };
        for (warmup_rounds, kind, expected) in [
            (0, cosine(0, 0.0), "rounds = 0"),
            (11, cosine(10, 0.0), "rounds = 10"),
            (0, cosine(10, 1.5), "final_ratio = 1.5"),
            (0, cosine(10, f64::NAN), "final_ratio = NaN"),
            (0, ScheduleKind::Linear { rounds: 10, final_ratio: -0.1 }, "final_ratio = -0.1"),
            (0, ScheduleKind::Step { step_rounds: 0, gamma: 0.1 }, "step_rounds = 0"),
            (0, ScheduleKind::Step { step_rounds: 1, gamma: 0.0 }, "gamma = 0"),
            (0, ScheduleKind::Step { step_rounds: 1, gamma: 1.1 }, "gamma = 1.1"),
            (0, one_cycle(2.0, 25.0, 1e4), "pct_start = 2"),
            (0, one_cycle(0.3, 0.5, 1e4), "div_factor = 0.5"),
            (0, one_cycle(0.3, 25.0, f64::INFINITY), "final_div_factor = inf"),
        ] {
            let error = Schedule::new(PEAK, stepbox_wire::Schedule { warmup_rounds, kind }).expect_err(expected);
            assert!(error.to_string().contains(expected), "{error}");
        }
    }

    fn any_kind() -> impl Strategy<Value = ScheduleKind> {
        let rounds = || 500_u64..5000;
        prop_oneof![
            Just(ScheduleKind::Constant),
            (1_u64..400, 0.01..=1.0).prop_map(|(step_rounds, gamma)| ScheduleKind::Step { step_rounds, gamma }),
            (rounds(), 0.0..=1.0).prop_map(|(rounds, final_ratio)| ScheduleKind::Cosine { rounds, final_ratio }),
            (rounds(), 0.0..=1.0).prop_map(|(rounds, final_ratio)| ScheduleKind::Linear { rounds, final_ratio }),
            (rounds(), 0.0..=1.0, 1.0..100.0, 1.0..1e5).prop_map(
                |(rounds, pct_start, div_factor, final_div_factor)| ScheduleKind::OneCycle {
                    rounds,
                    pct_start,
                    div_factor,
                    final_div_factor,
                }
            ),
            Just(ScheduleKind::InverseSquareRoot),
        ]
    }

    proptest! {
        #[test]
        fn every_rate_is_within_the_bounds_that_deployments_are_checked_against(
            warmup in 0_u64..500, kind in any_kind(),
        ) {
            let schedule = schedule(warmup, kind);
            let rates: Vec<_> = (0..7000).map(|round| schedule.rate(round)).collect();
            for rate in &rates {
                prop_assert!(*rate <= schedule.peak() * (1.0 + 1e-12) && *rate >= schedule.lowest() * (1.0 - 1e-12));
            }
            let highest = rates.iter().copied().fold(0.0, f64::max);
            prop_assert!(close(highest, schedule.peak()), "the peak is reached: {}", highest);
        }

        #[test]
        fn the_warm_up_rises_in_a_straight_line_and_ends_where_the_rest_begins(
            warmup in 2_u64..500, kind in any_kind(),
        ) {
            let schedule = schedule(warmup, kind);
            let begins = schedule.rate(warmup);
            for round in 1..=warmup {
                prop_assert!(close(schedule.rate(round), begins * round as f64 / warmup as f64));
            }
            let starts_low = matches!(kind, ScheduleKind::OneCycle { .. });
            prop_assert!(starts_low || close(begins, schedule.peak()));
            // And goes on from there: a curve moves in one round by no more than its steepest part.
            if let ScheduleKind::Cosine { rounds, .. } | ScheduleKind::Linear { rounds, .. } = kind {
                let steepest = schedule.peak() * PI / 2.0 / (rounds + 1 - warmup) as f64;
                prop_assert!((schedule.rate(warmup + 1) - begins).abs() <= steepest + 1e-12);
            }
        }

        #[test]
        fn after_the_warm_up_the_rate_falls_and_one_cycle_rises_once_before(
            warmup in 0_u64..500, kind in any_kind(),
        ) {
            let schedule = schedule(warmup, kind);
            let mut falling = !matches!(kind, ScheduleKind::OneCycle { .. });
            for round in warmup.max(1)..6000 {
                let (now, next) = (schedule.rate(round), schedule.rate(round + 1));
                if next < now - 1e-12 {
                    falling = true;
                }
                prop_assert!(!falling || next <= now + 1e-12, "round {}: {} after {}", round, next, now);
            }
        }
    }

    #[test]
    fn the_longest_schedules_do_not_overflow() {
        for kind in [
            ScheduleKind::Cosine { rounds: u64::MAX, final_ratio: 0.0 },
            ScheduleKind::OneCycle { rounds: u64::MAX, pct_start: 1.0, div_factor: 25.0, final_div_factor: 1e4 },
            ScheduleKind::InverseSquareRoot,
        ] {
            for warmup in [0, u64::MAX] {
                let schedule = schedule(warmup, kind);
                for round in [0, 1, u64::MAX - 1, u64::MAX] {
                    assert!((0.0..=PEAK).contains(&schedule.rate(round)));
                }
                assert!(schedule.lowest() >= 0.0);
            }
        }
    }
}
