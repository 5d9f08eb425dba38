//! Writes outside a key's own steps: they are found, attributed and undone.

use stepbox_corpus::{Guest, Keys, beside_an_honest_one, component, context, floats};
use stepbox_sandbox::{Fault, Found, Limits, Sandbox, SandboxError, StepError, TamperedPart, Tampering};

/// The first round in which these guests misbehave.
const ROUND: u64 = 5;

/// Elements of keys so small that no other key is checked after their steps before that round is over.
const SMALL: [usize; 2] = [5000, 5000];

/// Keys after four rounds in which the guest behaves.
fn trained(sandbox: &Sandbox, component: &[u8], elements: &[usize]) -> Keys {
    let admitted = sandbox.admit(component).unwrap();
    let mut keys = Keys::new(&admitted, elements);
    for round in 1..ROUND {
        (0..elements.len()).for_each(|key| keys.step(key, round).unwrap());
    }
    keys
}

fn tampering(outcome: Result<(), StepError>) -> Tampering {
    match outcome {
        Err(error @ StepError::Tampered(_)) => {
            assert_eq!(error.fault(), Fault::Publisher);
            let StepError::Tampered(tampering) = error else { unreachable!() };
            *tampering
        }
        other => panic!("{other:?}"),
    }
}

fn not_read<T>(outcome: Result<T, SandboxError>) -> Tampering {
    match outcome {
        Err(SandboxError::Tampered(tampering)) => *tampering,
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("the tampered key was read"),
    }
}

pub fn a_finite_value_written_into_another_key_is_found_before_it_is_used() {
    beside_an_honest_one(Limits::default(), |sandbox| {
        let mut keys = trained(sandbox, &Guest::Trespasser.with_trick('A'), &SMALL);
        keys.step(0, ROUND).unwrap();
        let of_first = keys.state(0).unwrap();
        assert_eq!(not_read(keys.state(1)).found, Found::Reading);
        for _ in 0..2 {
            let found = tampering(keys.step(1, ROUND));
            assert_eq!((found.optimizer.as_str(), found.key.as_str(), found.slice_start), ("trespasser", "key 1", 0));
            assert_eq!((found.what.as_str(), found.place), ("the parameters", TamperedPart::Chunk(1)));
            assert_eq!(found.found, Found::BeforeStep);
            assert!(matches!(keys.state(1), Err(SandboxError::Tampered(_))), "the key stays tampered with");
        }
        assert!(keys.state(0).unwrap() == of_first, "the untouched key has the result of its own step");
        // The key continues with the published parameters.
        keys.load_published(1).unwrap();
        assert_eq!(keys.state(1).unwrap()[0], keys.published(1));
        assert!(floats(keys.published(1)).all(|value| value != 77.0));
        keys.step(1, ROUND).unwrap();
    });
}

pub fn a_slot_written_from_outside_is_found_before_it_is_used() {
    beside_an_honest_one(Limits::default(), |sandbox| {
        let mut keys = trained(sandbox, &Guest::Trespasser.with_trick('B'), &SMALL);
        keys.step(0, ROUND).unwrap();
        let found = tampering(keys.step(1, ROUND));
        assert_eq!((found.what.as_str(), found.place), ("slot velocity", TamperedPart::Chunk(0)));
        assert!(found.to_string().contains("key `key 1`"), "{found}");
    });
}

pub fn a_trespass_is_found_right_after_the_step_where_keys_are_large() {
    beside_an_honest_one(Limits::default(), |sandbox| {
        let mut keys = trained(sandbox, &Guest::Trespasser.with_trick('A'), &[1 << 18, 4096]);
        let before = keys.state(0).unwrap();
        // For every 16 chunks that are stepped, one other chunk is checked: here the other key has a single chunk.
        let found = tampering(keys.step(0, ROUND));
        let by = Found::AfterStep { key: "key 0".into(), slice_start: 0, step: ROUND };
        assert_eq!((found.key.as_str(), &found.found), ("key 1", &by));
        assert!(keys.state(0).unwrap() == before, "the offending step is rolled back");
        assert_eq!(tampering(keys.step(1, ROUND)).found, by, "the victim's error names the culprit");
    });
}

pub fn a_trespass_before_a_trap_is_found_at_once() {
    beside_an_honest_one(Limits::default(), |sandbox| {
        let mut keys = trained(sandbox, &Guest::Trespasser.with_trick('F'), &SMALL);
        let before = keys.state(0).unwrap();
        assert!(matches!(keys.step(0, ROUND), Err(StepError::Call(_))));
        assert!(keys.state(0).unwrap() == before);
        let by = Found::AfterFailure { key: "key 0".into(), slice_start: 0, step: ROUND };
        assert_eq!(tampering(keys.step(1, ROUND)).found, by);
    });
}

pub fn a_block_written_again_by_the_next_ones_step_is_found() {
    let limits = Limits { block_elements: 4096, ..Limits::default() };
    beside_an_honest_one(limits, |sandbox| {
        let mut keys = trained(sandbox, &Guest::Trespasser.with_trick('D'), &[10_000, 5000]);
        let before = keys.state(0).unwrap();
        let found = tampering(keys.step(0, ROUND));
        assert_eq!((found.place, &found.found), (TamperedPart::Chunk(0), &Found::Reading));
        assert!(keys.state(0).unwrap() == before, "a round can still be taken back, slots and all");
    });
}

pub fn a_trespass_while_another_key_comes_is_found() {
    beside_an_honest_one(Limits::default(), |sandbox| {
        let admitted = sandbox.admit(&Guest::Trespasser.with_trick('G')).unwrap();
        let mut keys = Keys::new(&admitted, &[10_000, 5000]);
        (1..ROUND).for_each(|round| (0..2).for_each(|key| keys.step(key, round).unwrap()));
        keys.add(&admitted, &[3000]).unwrap();
        assert_eq!(tampering(keys.step(0, ROUND)).key, "key 0");
        (1..3).for_each(|key| keys.step(key, ROUND).unwrap());
    });
}

pub fn writes_that_change_nothing_do_no_harm() {
    beside_an_honest_one(Limits::default(), |sandbox| {
        let reference = trained_on(sandbox, 'Z');
        // Directly after a slice, into the used gradient, and the bytes already present.
        for trick in ['C', 'E', 'H'] {
            assert!(trained_on(sandbox, trick) == reference, "{trick}");
        }
    });
}

fn trained_on(sandbox: &Sandbox, trick: char) -> [Vec<Vec<u8>>; 2] {
    let mut keys = trained(sandbox, &Guest::Trespasser.with_trick(trick), &SMALL);
    (ROUND..ROUND + 3).for_each(|round| (0..2).for_each(|key| keys.step(key, round).unwrap()));
    [keys.state(0).unwrap(), keys.state(1).unwrap()]
}

pub fn another_optimizer_goes_on_with_what_was_published() {
    beside_an_honest_one(Limits::default(), |sandbox| {
        let mut keys = trained(sandbox, &Guest::Trespasser.with_trick('A'), &SMALL);
        keys.step(0, ROUND).unwrap();
        let honest = sandbox.admit(&component("sgd")).unwrap();
        let mut successor = Keys::new(&honest, &SMALL);
        let slices = [0, 1].map(|key| (successor.slice(key), keys.slice(key)));
        successor.pool.take_over(slices[0].0, &keys.pool, slices[0].1, false).unwrap();
        let refused = successor.pool.take_over(slices[1].0, &keys.pool, slices[1].1, false);
        assert_eq!(not_read(refused).key, "key 1");
        successor.pool.load(slices[1].0, keys.published(1)).unwrap();
        for key in 0..2 {
            assert_eq!(successor.state(key).unwrap()[0], keys.published(key));
            successor.step(key, 1).unwrap();
        }
    });
}

pub fn a_slice_under_another_slices_number_is_found() {
    beside_an_honest_one(Limits::default(), |sandbox| {
        // The guest steps the first slice in place of the second. The trial has tensors of two slices.
        match sandbox.admit(&Guest::Turncoat.with_trick('C')) {
            Err(SandboxError::Trial(error)) => drop(tampering(Err(error))),
            other => panic!("{:?}", other.map(|_| "admitted")),
        }
    });
}

pub fn arguments_that_a_guest_has_the_server_write_over_another_key_are_found() {
    beside_an_honest_one(Limits::default(), |sandbox| {
        let admitted = sandbox.admit(&Guest::FalseAllocator.with_trick('D')).unwrap();
        let mut keys = Keys::new(&admitted, &[5000]);
        (1..ROUND).for_each(|round| keys.step(0, round).unwrap());
        // The arguments of `bind` overlap the first key's parameters; the guest itself may or may not survive that.
        let _ = keys.add(&admitted, &[3000]);
        assert_eq!(tampering(keys.step(0, ROUND)).key, "key 0");
    });
}

pub fn a_trespass_after_a_steps_end_is_found() {
    beside_an_honest_one(Limits::default(), |sandbox| {
        let mut keys = trained(sandbox, &Guest::FalseFarewell.with_trick('C'), &SMALL);
        keys.step(0, ROUND).unwrap();
        assert_eq!(tampering(keys.step(1, ROUND)).place, TamperedPart::Chunk(0));
    });
}

/// A tensor of 300 rows of 4 elements, visited by touched rows.
fn rows(sandbox: &Sandbox, trick: char) -> Keys {
    let admitted = sandbox.admit(&Guest::RowThief.with_trick(trick)).unwrap();
    let mut keys = Keys::new(&admitted, &[]);
    keys.add(&admitted, &[300, 4]).unwrap();
    keys
}

fn touch(keys: &mut Keys, rows: &[u32], round: u64) -> Result<(), StepError> {
    let slice = keys.slice(0);
    keys.pool.step_rows(slice, rows, &context(round, 0.01), &mut |_, target| target.fill(0.5))?;
    keys.pool.commit(slice);
    Ok(())
}

pub fn a_row_changed_by_anothers_step_is_never_handed_out() {
    beside_an_honest_one(Limits::default(), |sandbox| {
        let mut keys = rows(sandbox, 'A');
        let slice = keys.slice(0);
        (1..=ROUND).for_each(|round| touch(&mut keys, &[1, 7], round).unwrap());
        assert_eq!(not_read(keys.pool.row(slice, 299)).place, TamperedPart::Row(299));
        assert_eq!(tampering(touch(&mut keys, &[2, 299], ROUND + 1)).place, TamperedPart::Row(299));
        for row in [0, 1, 2, 7, 298] {
            assert!(keys.pool.row(slice, row).unwrap().is_some(), "{row}");
        }
        assert!(matches!(keys.pool.verify(slice), Err(SandboxError::Tampered(_))));
        assert!(matches!(keys.state(0), Err(SandboxError::Tampered(_))));

        assert_eq!(keys.pool.start_rows_afresh(slice).unwrap(), [299]);
        keys.pool.verify(slice).unwrap();
        assert_eq!(keys.pool.row(slice, 299).unwrap(), Some(&[0; 16][..]));
        assert_eq!(floats(keys.pool.row(slice, 1).unwrap().unwrap()).next(), Some(0.5), "as its own step left it");
    });
}

pub fn however_many_rows_were_changed_each_starts_afresh_once() {
    beside_an_honest_one(Limits::default(), |sandbox| {
        let mut keys = rows(sandbox, 'D');
        let slice = keys.slice(0);
        (1..=ROUND).for_each(|round| touch(&mut keys, &[1, 7], round).unwrap());
        let afresh = keys.pool.start_rows_afresh(slice).unwrap();
        // First the rows whose parameters changed, then the rows of which only the slot changed.
        let expected: Vec<u32> = (0..300).step_by(2).chain((3..300).step_by(6)).collect();
        assert_eq!(afresh, expected);
        keys.pool.verify(slice).unwrap();
        for row in [0, 2, 3, 298] {
            assert_eq!(keys.pool.row(slice, row).unwrap(), Some(&[0; 16][..]), "{row}");
        }
        assert_eq!(floats(keys.pool.row(slice, 1).unwrap().unwrap()).next(), Some(0.5), "as its own step left it");
        let visits: Vec<f32> = floats(keys.pool.read_slot(slice, "visits").unwrap().unwrap()).collect();
        let visited = visits.iter().enumerate().filter(|(_, visits)| **visits != 0.0).map(|(row, _)| row);
        // The guest counts only the first row of a block.
        assert_eq!(visited.collect::<Vec<_>>(), [1]);
        assert_eq!(keys.pool.start_rows_afresh(slice).unwrap(), []);
    });
}

pub fn a_row_whose_slot_was_changed_is_not_stepped() {
    beside_an_honest_one(Limits::default(), |sandbox| {
        let mut keys = rows(sandbox, 'B');
        let slice = keys.slice(0);
        (1..=ROUND).for_each(|round| touch(&mut keys, &[1, 7], round).unwrap());
        assert!(keys.pool.row(slice, 299).unwrap().is_some(), "its parameters have not changed");
        assert_eq!(tampering(touch(&mut keys, &[299], ROUND + 1)).what, "slot visits");
        assert!(keys.pool.read_slot(slice, "visits").is_err());
        let mut honest = rows(sandbox, 'C');
        (1..=ROUND).for_each(|round| touch(&mut honest, &[1, 7], round).unwrap());
        honest.pool.verify(honest.slice(0)).unwrap();
    });
}
