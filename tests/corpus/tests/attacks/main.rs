//! Every hostile guest is refused or contained: with the error that belongs to what it does, state bit for bit as before,
//! other keys and other optimizers unaffected, and the process alive.
//!
//! A folder in `tests/hostile` that is not in this list does not compile.

mod admission;
mod output;
mod steps;
mod trespass;

use stepbox_corpus::Guest;

/// The attacks that a guest is for.
fn attacks(guest: Guest) -> &'static [fn()] {
    match guest {
        Guest::EarlyRiser => &[admission::what_runs_at_instantiation_has_the_limits_of_a_call],
        Guest::EndlessExports => &[
            admission::a_loop_in_any_export_runs_out_of_fuel,
            admission::a_loop_in_any_export_passes_its_deadline_where_fuel_is_plenty,
            steps::a_loop_that_begins_when_the_trial_is_over_is_stopped,
        ],
        Guest::EndlessLoop => &[admission::guests_of_one_trick_meet_their_limit],
        Guest::Entangled => &[admission::guests_of_one_trick_meet_their_limit],
        Guest::FalseAllocator => &[
            admission::arguments_are_not_written_where_there_is_no_room,
            trespass::arguments_that_a_guest_has_the_server_write_over_another_key_are_found,
        ],
        Guest::FalseEvaluation => &[output::evaluation_changes_nothing_whatever_it_does],
        Guest::FalseOffsets => &[admission::false_offsets_are_refused],
        Guest::ForbiddenImport => &[admission::guests_of_one_trick_meet_their_limit],
        Guest::GreedyProduct => &[admission::guests_of_one_trick_meet_their_limit],
        Guest::HugeNames => &[admission::guests_of_one_trick_meet_their_limit],
        Guest::HugeStrings => &[admission::huge_strings_do_not_cross, admission::a_name_is_fit_for_a_terminal],
        Guest::LateSpender => &[steps::fuel_that_ends_in_a_late_block_takes_the_earlier_ones_back],
        Guest::LateTrap => &[steps::a_trap_in_a_later_phase_takes_the_earlier_ones_back],
        Guest::LossProbe => &[steps::the_loss_is_the_one_of_the_round],
        Guest::MemoryBomb => &[admission::guests_of_one_trick_meet_their_limit],
        Guest::MemoryCreeper => &[steps::memory_that_grows_step_by_step_meets_its_limit],
        Guest::NanOutput => &[admission::guests_of_one_trick_meet_their_limit],
        Guest::NotFinite => &[output::what_is_no_number_is_refused_wherever_it_is_left],
        Guest::OverflowingPlan => &[admission::plans_that_cannot_be_counted_or_placed_are_refused],
        Guest::Overwriter => &[admission::guests_of_one_trick_meet_their_limit],
        Guest::Recursion => &[admission::guests_of_one_trick_meet_their_limit],
        Guest::RowThief => &[
            trespass::a_row_changed_by_anothers_step_is_never_handed_out,
            trespass::a_row_whose_slot_was_changed_is_not_stepped,
        ],
        Guest::Scribbler => &[steps::a_step_that_scribbles_and_traps_leaves_no_trace],
        Guest::SlowPoison => &[steps::a_step_that_scribbles_and_traps_leaves_no_trace],
        Guest::Trespasser => &[
            trespass::a_finite_value_written_into_another_key_is_found_before_it_is_used,
            trespass::a_slot_written_from_outside_is_found_before_it_is_used,
            trespass::a_trespass_is_found_right_after_the_step_where_keys_are_large,
            trespass::a_trespass_before_a_trap_is_found_at_once,
            trespass::a_block_written_again_by_the_next_ones_step_is_found,
            trespass::a_trespass_while_another_key_comes_is_found,
            trespass::writes_that_change_nothing_do_no_harm,
            trespass::another_optimizer_goes_on_with_what_was_published,
        ],
        Guest::Turncoat => &[
            admission::what_an_optimizer_says_of_itself_is_what_it_said_first,
            trespass::a_slice_under_another_slices_number_is_found,
            steps::hidden_state_ends_the_same_for_the_same_history,
        ],
        Guest::WasiProbe => &[admission::guests_of_one_trick_meet_their_limit],
        Guest::WasiSleeper => &[admission::guests_of_one_trick_meet_their_limit],
    }
}

#[test]
fn every_guest_is_built_and_attacks() {
    for guest in Guest::ALL {
        assert!(!guest.component().is_empty() && !attacks(*guest).is_empty(), "{}", guest.name());
    }
}
