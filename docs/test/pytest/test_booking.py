"""Seven cases that a booking system's own tests should have. Each is independent of the others."""

import http.client

import pytest

BOOK, READ = "create:appointment-1", "read:metadata-1"


def test_a_booking_reaches_the_practice(lab):
    before = lab.booked()
    answer = lab.send("POST", "/Appointment", BOOK, body=lab.booking())
    assert answer.status == 201
    assert answer.json()["status"] == "booked"
    assert lab.booked() == before + 1


def test_a_practice_may_be_slow(lab):
    answer = lab.send("GET", "/metadata", READ, headers={"X-Simulate": "delay=500ms"})
    assert answer.status == 200


def test_a_practice_that_is_out_of_order_answers_so_itself(lab):
    answer = lab.send("GET", "/metadata", READ, headers={"X-Simulate": "status=503"})
    assert (answer.status, answer.refusal()) == (503, None)


def test_an_answer_that_is_cut_is_no_answer(lab):
    answer = lab.send("GET", "/metadata", READ, headers={"X-Simulate": "cut=100"})
    assert answer.status == 200
    with pytest.raises((http.client.IncompleteRead, OSError)):
        answer.json()


def test_a_booking_whose_outcome_is_unknown_may_have_been_made(lab):
    before = lab.booked()
    simulate = {"X-Simulate": "reset-after"}
    answer = lab.send("POST", "/Appointment", BOOK, body=lab.booking(), headers=simulate)
    assert (answer.status, answer.refusal()) == (502, "outcome_unknown")
    assert lab.booked() == before + 1


def test_a_second_practice_knows_nothing_of_the_first(lab):
    second = lab.practice(1)
    before = lab.booked()
    answer = lab.send("POST", "/Appointment", BOOK, body=lab.booking(second), practice=second)
    assert answer.status == 201
    assert lab.booked() == before


def test_what_the_proxy_refuses_reaches_nobody(lab):
    answer = lab.send("GET", "/metadata", READ, audience="https://authorize.fhir.nhs.net/token")
    assert (answer.status, answer.refusal()) == (400, "audience_mismatch")
    assert lab.arrived(answer.trace_id) == []
