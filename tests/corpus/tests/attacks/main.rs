//! Every hostile guest is refused or contained, with the error for its attack, state that is bit for bit as before,
//! other keys and optimizers unaffected, and the process alive.
//!
//! A folder in `tests/hostile` without an attack does not compile. Neither does an attack that does not run: the list
//! below generates a test for each.

mod admission;
mod output;
mod steps;
mod trespass;

use stepbox_corpus::Guest;

/// Generates a test for each attack, and records the guests that attack.
macro_rules! attacks {
    ($($module:ident::$attack:ident: [$($guest:ident),+];)+) => {
        $(
            #[test]
            fn $attack() {
                $module::$attack();
            }
        )+

        const ATTACKERS: &[Guest] = &[$($(Guest::$guest),+),+];
    };
}

attacks! {
    admission::a_loop_in_any_export_passes_its_deadline_where_fuel_is_plenty: [EndlessExports];
    admission::a_loop_in_any_export_runs_out_of_fuel: [EndlessExports];
    admission::a_name_is_fit_for_a_terminal: [HugeStrings];
    admission::a_product_of_nothing_is_paid_for_and_stays_in_the_memory: [EmptyProduct];
    admission::arguments_are_not_written_where_there_is_no_room: [FalseAllocator];
    admission::a_trial_is_not_told_by_its_tensors_names: [EndlessExports];
    admission::false_offsets_are_refused: [FalseOffsets];
    admission::guests_of_one_trick_meet_their_limit: [
        EndlessLoop, Entangled, ForbiddenImport, GreedyProduct, HugeNames, MemoryBomb, NanOutput, Overwriter, Recursion,
        WasiProbe, WasiSleeper
    ];
    admission::hidden_state_is_found_in_the_trial: [Turncoat];
    admission::huge_strings_do_not_cross: [HugeStrings];
    admission::plans_that_cannot_be_counted_or_placed_are_refused: [OverflowingPlan];
    admission::tables_have_a_limit_in_number_and_in_elements: [TableCreeper];
    admission::what_an_optimizer_says_of_itself_is_what_it_said_first: [Turncoat];
    admission::what_runs_after_a_call_has_the_limits_of_the_call: [FalseFarewell];
    admission::what_would_run_at_instantiation_is_refused: [EarlyRiser];
    steps::a_loop_in_any_export_after_the_trial_is_stopped: [EndlessExports];
    steps::a_loop_that_begins_when_the_trial_is_over_is_stopped: [EndlessExports];
    steps::a_trial_that_was_lied_to_buys_no_more_fuel_than_the_limits: [SlowStarter];
    steps::all_calls_that_prepare_share_one_budget: [SlowStarter];
    steps::a_step_that_scribbles_and_traps_leaves_no_trace: [Scribbler, SlowPoison];
    steps::a_trap_in_a_later_phase_takes_the_earlier_ones_back: [LateTrap];
    steps::fuel_is_enough_to_the_last_unit_and_not_beyond: [JustShort];
    steps::fuel_that_ends_in_a_late_block_takes_the_earlier_ones_back: [LateSpender];
    steps::memory_that_grows_step_by_step_meets_its_limit: [MemoryCreeper];
    steps::the_loss_is_the_one_of_the_round: [LossProbe];
    output::evaluation_changes_nothing_whatever_it_does: [FalseEvaluation];
    output::what_is_no_number_is_refused_wherever_it_is_left: [NotFinite];
    trespass::a_block_written_again_by_the_next_ones_step_is_found: [Trespasser];
    trespass::a_finite_value_written_into_another_key_is_found_before_it_is_used: [Trespasser];
    trespass::a_row_changed_by_anothers_step_is_never_handed_out: [RowThief];
    trespass::a_row_whose_slot_was_changed_is_not_stepped: [RowThief];
    trespass::a_slice_under_another_slices_number_is_found: [Turncoat];
    trespass::a_slot_written_from_outside_is_found_before_it_is_used: [Trespasser];
    trespass::a_trespass_after_a_steps_end_is_found: [FalseFarewell];
    trespass::a_trespass_before_a_trap_is_found_at_once: [Trespasser];
    trespass::a_trespass_is_found_right_after_the_step_where_keys_are_large: [Trespasser];
    trespass::a_trespass_while_another_key_comes_is_found: [Trespasser];
    trespass::another_optimizer_goes_on_with_what_was_published: [Trespasser];
    trespass::arguments_that_a_guest_has_the_server_write_over_another_key_are_found: [FalseAllocator];
    trespass::however_many_rows_were_changed_each_starts_afresh_once: [RowThief];
    trespass::writes_that_change_nothing_do_no_harm: [Trespasser];
}

/// Fails to compile if no attack above names a guest in `tests/hostile`.
const _: () = {
    let mut guest = 0;
    while guest < Guest::ALL.len() {
        let mut attacker = 0;
        while ATTACKERS[attacker] as usize != Guest::ALL[guest] as usize {
            attacker += 1;
            assert!(attacker < ATTACKERS.len(), "a hostile guest without an attack");
        }
        guest += 1;
    }
};

#[test]
fn every_guest_is_built() {
    for guest in Guest::ALL {
        assert!(!guest.component().is_empty(), "{}", guest.name());
    }
}
