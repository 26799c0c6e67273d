import asyncio
import time

import pytest

from server.auth import AccessDenied
from server.gate import Gate


def find_denial(gate: Gate, user_id: str) -> AccessDenied:
    with pytest.raises(AccessDenied) as denial:
        gate.admit(user_id)
    return denial.value


def test_one_user_s_limit_is_no_other_s() -> None:
    gate = Gate(None, max_visits=100, max_visits_per_user=2)
    first = gate.admit("ada")
    gate.admit("ada")

    assert find_denial(gate, "ada").code == "rate_limited"
    gate.admit("bob")
    first.end()
    gate.admit("ada")
    assert find_denial(gate, "ada").code == "rate_limited"


def test_limit_of_all_counts_everybody() -> None:
    gate = Gate(None, max_visits=2)
    gate.admit("ada")
    second = gate.admit("bob")

    assert find_denial(gate, "eve").code == "overloaded"
    second.end()
    gate.admit("eve")


def test_who_leaves_twice_has_left_once() -> None:
    gate = Gate(None, max_visits=2, max_visits_per_user=2)
    first = gate.admit("ada")
    gate.admit("ada")
    first.end()
    first.end()

    gate.admit("ada")
    assert find_denial(gate, "ada").code == "overloaded"


def test_nobody_is_remembered() -> None:
    gate = Gate(None, max_visits=2, max_visits_per_user=2)
    for number in range(10):
        gate.admit(f"user-{number}").end()

    assert not gate._visits


def test_expiry_is_told_once_it_is_there() -> None:
    async def wait() -> float:
        expired = asyncio.Event()
        began_at_s = time.time()
        visit = Gate(None, max_visits=1).admit("ada")
        visit.expire_at(began_at_s + 0.05, expired.set)
        assert not expired.is_set()
        await asyncio.wait_for(expired.wait(), 5)
        return time.time() - began_at_s

    assert asyncio.run(wait()) >= 0.05


def test_expiry_of_who_has_left_is_nobody_s() -> None:
    async def leave() -> bool:
        told = []
        loop = asyncio.get_running_loop()
        visit = Gate(None, max_visits=1).admit("ada")
        visit.expire_at(time.time() + 0.01, lambda: told.append(1))
        visit.end()
        later = loop.create_future()
        loop.call_later(0.05, later.set_result, None)
        await later
        return bool(told)

    assert not asyncio.run(leave())


def test_expiry_far_away_is_waited_for_in_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.gate.MAX_TIMER_S", 0.01)
    test_expiry_is_told_once_it_is_there()


def test_expiry_of_the_year_ten_thousand_can_be_waited_for() -> None:
    async def wait() -> None:
        visit = Gate(None, max_visits=1).admit("ada")
        visit.expire_at(2.5e11, lambda: None)
        visit.end()

    asyncio.run(wait())
