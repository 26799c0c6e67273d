import pytest

from actors.circuit import MAX_FAILURES, OPEN_S, WINDOW_S, Circuit


def test_pause_doubles_with_each_failure() -> None:
    circuit = Circuit()
    assert [circuit.record_failure(now_s) for now_s in (0.0, 1.0, 2.0, 3.0)] == pytest.approx([0.1, 0.2, 0.4, 0.8])
    assert not circuit.is_open


def test_fifth_failure_within_a_minute_opens_the_circuit() -> None:
    circuit = Circuit()
    for now_s in range(MAX_FAILURES):
        wait_s = circuit.record_failure(float(now_s))
    assert (wait_s, circuit.is_open) == (OPEN_S, True)
    assert circuit.is_resting(4.0 + OPEN_S - 0.01)
    assert not circuit.is_resting(4.0 + OPEN_S)


def test_failure_after_the_rest_opens_it_at_once() -> None:
    circuit = Circuit()
    for now_s in range(MAX_FAILURES):
        circuit.record_failure(float(now_s))
    assert circuit.record_failure(4.0 + OPEN_S) == OPEN_S


def test_failures_a_minute_apart_never_open_it() -> None:
    circuit = Circuit()
    assert {circuit.record_failure(number * WINDOW_S) for number in range(20)} == {0.1}
    assert len(circuit.failed_at_s) == 1


def test_circuit_is_healed_a_minute_after_its_last_failure() -> None:
    circuit = Circuit()
    circuit.record_failure(0.0)
    circuit.record_failure(10.0)
    assert not circuit.is_healed(10.0 + WINDOW_S - 0.01)
    assert circuit.is_healed(10.0 + WINDOW_S)
