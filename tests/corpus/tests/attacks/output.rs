//! What a guest leaves behind: non-finite numbers, and evaluation weights.

use stepbox_corpus::{Guest, Keys, beside_an_honest_one, context};
use stepbox_sandbox::{Limits, StepError};

pub fn what_is_no_number_is_refused_wherever_it_is_left() {
    beside_an_honest_one(Limits::default(), |sandbox| {
        for trick in 'A'..='N' {
            let admitted = sandbox.admit(&Guest::NotFinite.with_trick(trick)).unwrap();
            let mut keys = Keys::new(&admitted, &[5000, 6000]);
            for round in 1..5 {
                (0..2).for_each(|key| keys.step(key, round).unwrap());
            }
            let before = [keys.state(0).unwrap(), keys.state(1).unwrap()];
            for _ in 0..2 {
                let outcome = keys.step(0, 5);
                if trick == 'N' {
                    outcome.unwrap();
                    break;
                }
                let error = outcome.unwrap_err();
                let StepError::NotFinite { what, value, .. } = &error else { panic!("{trick}: {error}") };
                assert!(!value.is_finite());
                let expected = match trick {
                    'A'..='C' => "parameter",
                    'D'..='F' => "single",
                    'G' | 'H' => "double",
                    'I' | 'J' => "half",
                    'K' => "shared",
                    _ => "accumulator",
                };
                assert!(what.contains(expected), "{trick}: {error}");
                assert!(keys.state(0).unwrap() == before[0], "{trick} leaves a trace");
            }
            assert!(keys.state(1).unwrap() == before[1], "{trick}: the other key has changed");
        }
    });
}

pub fn evaluation_changes_nothing_whatever_it_does() {
    beside_an_honest_one(Limits::default(), |sandbox| {
        for trick in 'A'..='F' {
            let admitted = sandbox.admit(&Guest::FalseEvaluation.with_trick(trick)).unwrap();
            let mut keys = Keys::new(&admitted, &[5000, 6000]);
            for round in 1..6 {
                (0..2).for_each(|key| keys.step(key, round).unwrap());
            }
            let before = [keys.state(0).unwrap(), keys.state(1).unwrap()];
            let mut weights = vec![0; 5000 * 4];
            let slice = keys.slice(0);
            let outcome = keys.pool.evaluate(slice, &context(5, 0.01), &mut weights);
            match trick {
                'C' | 'D' => assert!(matches!(outcome, Err(StepError::NotFinite { .. })), "{trick}: {outcome:?}"),
                'E' => assert!(matches!(outcome, Err(StepError::Call(_))), "{trick}: {outcome:?}"),
                _ => assert_eq!(outcome, Ok(()), "{trick}"),
            }
            assert!(keys.state(0).unwrap() == before[0], "{trick} leaves a trace");
            match trick {
                // The write is in another key: see the tests of trespassers.
                'B' => assert!(matches!(keys.step(1, 6), Err(StepError::Tampered(_)))),
                _ => assert!(keys.state(1).unwrap() == before[1], "{trick}: the other key has changed"),
            }
            keys.step(0, 6).unwrap();
        }
    });
}
