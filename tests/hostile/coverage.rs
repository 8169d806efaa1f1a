//! Every number of the catalogue, and where it is shown. A number without a row or a test fails; so
//! does one whose test is gone.

use std::collections::BTreeSet;

use super::http1;
use testkit::repository::{files, sources};

/// Sections, and how many numbers each has.
const SECTIONS: [(char, u32); 8] =
    [('A', 34), ('B', 17), ('C', 26), ('D', 12), ('E', 8), ('F', 12), ('G', 20), ('H', 22)];

/// Numbers that no bytes of one HTTP/1.1 request show, and the tests that show them.
#[rustfmt::skip]
pub(crate) const SHOWN_BY: &[(&str, &str)] = &[
    ("A24", "a_head_costs_a_few_usual_requests_however_it_is_filled"),
    ("A28", "half_a_booking_whose_consumer_hung_up_never_looks_whole"),
    ("A30", "a_connection_carries_so_many_requests_and_no_more"),
    ("A32", "http_without_tls_is_told_so_or_hung_up_on"),
    ("A32", "tls_to_the_second_port_is_nothing_to_it"),
    ("B1", "a_breach_of_the_protocol_ends_the_connection"),
    ("B2", "a_breach_of_the_protocol_ends_the_connection"),
    ("B3", "a_breach_of_the_protocol_ends_the_connection"),
    ("B4", "small_frames_of_many_streams_pass"),
    ("B5", "a_request_that_is_none_reaches_nobody"),
    ("B5", "a_head_costs_a_few_usual_requests_over_http2_too"),
    ("B6", "floods_of_control_frames_are_borne_or_end_the_connection"),
    ("B7", "a_consumer_that_falls_silent_is_let_go"),
    ("B8", "a_consumer_that_falls_silent_is_let_go"),
    ("B9", "a_consumer_that_shuts_its_window_does_not_keep_its_place"),
    ("B10", "a_request_that_is_none_reaches_nobody"),
    ("B11", "a_request_that_is_none_reaches_nobody"),
    ("B12", "a_request_that_is_none_reaches_nobody"),
    ("B13", "a_request_that_is_none_reaches_nobody"),
    ("B14", "a_breach_of_the_protocol_ends_the_connection"),
    ("B15", "a_breach_of_the_protocol_ends_the_connection"),
    ("B16", "a_provider_that_offers_http2_is_spoken_to_over_http1"),
    ("B17", "streams_beyond_those_agreed_are_refused"),
    ("C19", "no_name_leads_outside_the_networks"),
    ("C20", "a_name_that_leads_outside_the_networks_is_never_dialled"),
    ("C21", "a_request_that_comes_back_is_refused"),
    ("C22", "a_redirect_is_passed_on_and_not_followed"),
    ("C23", "an_invalid_address_is_not_used"),
    ("D11", "what_could_mislead_a_reader_is_recorded_as_plain_ascii"),
    ("D12", "a_snapshot_keeps_the_age_of_its_entries"),
    ("E5", "headers_of_the_providers_hop_stay_there"),
    ("E8", "no_header_of_a_provider_is_two"),
    ("F1", "a_connection_that_never_speaks_tls_is_closed"),
    ("F2", "a_handshake_that_drips_is_ended"),
    ("F3", "an_address_has_its_share_of_the_listener_and_no_more"),
    ("F3", "a_certificate_registered_nowhere_has_the_places_of_strangers_alone"),
    ("F3", "certificates_of_one_name_have_so_many_connections_and_no_more"),
    ("F3", "when_connections_run_out_the_idlest_of_the_largest_holder_is_closed"),
    ("F4", "a_head_that_does_not_end_closes_its_connection"),
    ("F5", "a_booking_that_only_drips_is_given_up"),
    ("F6", "a_consumer_that_takes_too_little_is_given_up"),
    ("F7", "memory_stays_below_what_the_configuration_allows"),
    ("F8", "a_consumer_that_resets_its_connection_lets_its_provider_go"),
    ("F9", "the_workbench_frames_its_gets_and_ends_its_side_before_the_answer"),
    ("F10", "a_refusal_reaches_a_consumer_that_still_uploads"),
    ("F11", "no_request_comes_in_early_data"),
    ("F12", "certificates_with_many_names_and_far_dates_are_judged_as_others_are"),
    ("F12", "a_chain_that_is_long_or_out_of_order_is_refused_before_a_path_is_built"),
    ("G1", "a_provider_that_does_not_prove_its_name_gets_no_request"),
    ("G2", "a_silent_provider_is_abandoned_at_the_deadline"),
    ("G3", "a_body_that_stalls_is_cut"),
    ("G4", "an_answer_cut_anywhere_is_never_clean_to_http1"),
    ("G5", "an_answer_framed_twice_is_framed_once"),
    ("G6", "invalid_http_is_not_forwarded"),
    ("G7", "invalid_http_is_not_forwarded"),
    ("G8", "invalid_http_is_not_forwarded"),
    ("G9", "interim_responses_are_passed_over_as_long_as_they_are_few"),
    ("G10", "an_unsolicited_second_answer_is_not_forwarded"),
    ("G11", "a_read_on_a_kept_connection_that_closes_under_it_is_sent_again_once"),
    ("G12", "a_booking_has_an_unknown_outcome_once_it_was_sent_whole"),
    ("G13", "a_provider_may_refuse_a_booking_before_it_has_read_it"),
    ("G14", "a_provider_that_closes_each_time_is_dialled_each_time"),
    ("G15", "memory_stays_below_what_the_configuration_allows"),
    ("G16", "headers_of_the_answer_pass_unchanged"),
    ("G17", "a_burst_of_503_spares_for_as_long_as_the_provider_asks"),
    ("G18", "the_last_addresses_of_a_name_are_used_while_dns_fails"),
    ("G19", "an_address_that_does_not_answer_is_not_waited_for_alone"),
    ("G20", "descriptors_that_run_out_neither_end_nor_spin_the_acceptor"),
    ("H1", "a_fault_of_the_source_is_not_an_absence"),
    ("H1", "an_answer_that_is_too_long_is_rejected_without_opening_the_circuit"),
    ("H2", "a_cached_entry_survives_one_empty_answer_but_not_two"),
    ("H3", "a_scan_of_random_codes_uses_up_only_its_own_budget"),
    ("H3", "one_consumers_scan_does_not_starve_another_consumer"),
    ("H3", "a_budget_for_look_ups_belongs_to_the_consumer_not_to_its_certificate"),
    ("H4", "a_thousand_concurrent_misses_make_three_queries"),
    ("H5", "a_snapshot_keeps_the_age_of_its_entries"),
    ("H6", "a_bad_file_leaves_the_last_good_one_in_force"),
    ("H6", "a_revocation_waits_for_no_other_file"),
    ("H6", "settings_and_files_that_an_operator_should_look_at_are_named"),
    ("H7", "a_bad_certificate_is_answered_with_its_reason_and_the_connection_closes"),
    ("H7", "a_cn_counts_only_alone_and_without_name_constraints"),
    ("H7", "the_reason_is_in_the_answer_and_the_record"),
    ("H8", "a_revocation_is_felt_by_the_next_request_of_a_live_connection"),
    ("H9", "a_resumed_session_does_not_outlive_a_revocation"),
    ("H9", "no_session_is_kept_for_a_certificate_that_was_not_verified"),
    ("H10", "an_expired_revocation_list_denies_unless_it_is_accepted_in_writing"),
    ("H10", "the_list_with_the_highest_number_applies_in_any_order"),
    ("H10", "each_key_of_an_authority_has_its_own_list_on_both_legs"),
    ("H10", "a_part_of_a_list_covers_only_certificates_that_name_its_distribution_point"),
    ("H10", "check_and_readyz_name_lists_that_do_not_fit"),
    ("H11", "another_authority_is_felt_by_the_next_request_of_every_connection"),
    ("H12", "a_full_disk_refuses_requests_and_recovers_by_itself"),
    ("H12", "an_unregistered_certificate_cannot_fill_the_disk"),
    ("H13", "what_could_mislead_a_reader_is_recorded_as_plain_ascii"),
    ("H14", "personal_data_in_a_request_appears_in_no_output"),
    ("H15", "no_request_makes_a_series"),
    ("H16", "many_sighups_under_load_lose_no_request"),
    ("H17", "open_exchanges_finish_and_no_new_ones_begin"),
    ("H17", "javas_own_client_loses_no_booking_under_way_at_a_stop_or_when_enough_was_carried"),
    ("H18", "an_exchange_that_panics_leaves_its_record"),
    ("H19", "memory_stays_below_what_the_configuration_allows"),
    ("H19", "a_start_and_a_reload_warn_of_a_bound_above_the_memory_there_is"),
    ("H20", "a_journal_continues_after_a_line_torn_by_a_crash"),
    ("H21", "the_admin_port_reports_the_state"),
    ("H21", "the_directory_is_read_with_the_token_alone"),
    ("H21", "a_connection_that_does_not_read_makes_room_for_a_probe"),
    ("H22", "certificates_with_many_names_and_far_dates_are_judged_as_others_are"),
];

/// The text of every Rust file, tests included.
fn code() -> String {
    let files = [files("tests", "rs"), sources()].concat();
    files.iter().map(|path| std::fs::read_to_string(path).unwrap()).collect()
}

#[test]
fn every_number_is_shown_somewhere() {
    let mut shown: BTreeSet<_> = http1::rows().iter().map(|row| row.id.to_owned()).collect();
    let text = code();
    for (id, test) in SHOWN_BY {
        assert!(text.contains(&format!("fn {test}(")), "{id}: there is no {test}");
        shown.insert((*id).to_owned());
    }
    let numbers = |(section, count)| (1..=count).map(move |number| format!("{section}{number}"));
    let missing: Vec<_> =
        SECTIONS.into_iter().flat_map(numbers).filter(|id| !shown.contains(id)).collect();
    assert!(missing.is_empty(), "not shown: {missing:?}");
}

#[test]
fn every_promise_names_tests_that_exist() {
    let promises = include_str!("../../SECURITY.md");
    let text = code();
    let rows = promises.lines().filter(|line| line.starts_with("| P"));
    assert_eq!(rows.clone().count(), 8);
    let named = rows.flat_map(|row| row.split('`').skip(1).step_by(2));
    let named: Vec<_> = named.filter(|name| name.matches('_').count() > 2).collect();
    assert!(named.len() > 20);
    for name in named {
        assert!(text.contains(&format!("fn {name}(")), "there is no {name}");
    }
}
