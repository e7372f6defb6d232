"""Limits on failed log-ins, by a clock of ours."""

from __future__ import annotations

import pytest

from argilla_setup.engine.logins import PER_ADDRESS, PER_NAME, PER_PERSON, LoginLimiter, network_of


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def limiter(clock: Clock) -> LoginLimiter:
    return LoginLimiter(clock=clock)


def fail(limiter: LoginLimiter, name: str, address: str, times: int) -> list[float]:
    return [limiter.begin(name, address) for _ in range(times)]


def test_guesses_at_one_name_from_one_address_must_wait(limiter: LoginLimiter, clock: Clock) -> None:
    assert fail(limiter, "ada", "10.0.0.1", PER_PERSON.failures) == [0.0] * PER_PERSON.failures
    clock.now += 60
    assert limiter.begin("ada", "10.0.0.1") == PER_PERSON.seconds - 60
    assert limiter.begin("grace", "10.0.0.1") == limiter.begin("ada", "10.0.0.2") == 0
    clock.now += PER_PERSON.seconds - 60
    assert limiter.begin("ada", "10.0.0.1") == 0


def test_a_refused_attempt_does_not_make_the_wait_longer(limiter: LoginLimiter, clock: Clock) -> None:
    fail(limiter, "ada", "10.0.0.1", PER_PERSON.failures)
    first = limiter.begin("ada", "10.0.0.1")
    fail(limiter, "ada", "10.0.0.1", 100)
    assert limiter.begin("ada", "10.0.0.1") == first
    clock.now += first
    assert limiter.begin("ada", "10.0.0.1") == 0


def test_a_team_behind_one_proxy_is_not_locked_out(limiter: LoginLimiter) -> None:
    for _ in range(10):
        for number in range(50):
            assert limiter.begin(f"person{number}", "192.0.2.1") == 0
            limiter.succeed(f"person{number}", "192.0.2.1")
    for number in range(20):
        assert fail(limiter, f"person{number}", "192.0.2.1", 4) == [0.0] * 4
        assert limiter.begin(f"person{number}", "192.0.2.1") == 0
        limiter.succeed(f"person{number}", "192.0.2.1")


def test_one_address_that_tries_many_names_must_wait(limiter: LoginLimiter) -> None:
    tried = [limiter.begin(f"name{number}", "192.0.2.1") for number in range(PER_ADDRESS.failures)]
    assert tried == [0.0] * PER_ADDRESS.failures
    assert limiter.begin("another", "192.0.2.1") > 0
    assert limiter.begin("another", "192.0.2.2") == 0


def test_many_addresses_that_try_one_name_must_wait_but_cannot_lock_its_owner_out(limiter: LoginLimiter) -> None:
    assert limiter.begin("ada", "10.0.0.1") == 0
    limiter.succeed("ada", "10.0.0.1")
    tried = [limiter.begin("ada", f"198.51.100.{number}") for number in range(PER_NAME.failures)]
    assert tried == [0.0] * PER_NAME.failures
    assert limiter.begin("ada", "203.0.113.9") > 0
    assert limiter.begin("ada", "10.0.0.1") == 0


def test_attempts_count_before_their_passwords_are_checked(limiter: LoginLimiter) -> None:
    at_once = fail(limiter, "ada", "10.0.0.1", 2 * PER_PERSON.failures)
    assert sum(wait == 0 for wait in at_once) == PER_PERSON.failures


def test_a_success_forgets_the_persons_failures_there(limiter: LoginLimiter) -> None:
    fail(limiter, "ada", "10.0.0.1", PER_PERSON.failures)
    limiter.succeed("ada", "10.0.0.1")
    assert fail(limiter, "ada", "10.0.0.1", PER_PERSON.failures) == [0.0] * PER_PERSON.failures


def test_memory_is_bounded(clock: Clock) -> None:
    limiter = LoginLimiter(clock=clock, max_keys=500)
    for number in range(500):
        limiter.begin("x" * 1_000_000 if number == 0 else f"name{number}", f"2001:db8:{number:x}::1")
    assert len(limiter._failures) == 500 and max(len(name) for name, _ in limiter._failures) <= 200


@pytest.mark.parametrize(
    ("address", "network"),
    [("192.0.2.7", "192.0.2.7"), ("2001:db8::1", "2001:db8::/64"), ("::ffff:192.0.2.7", "192.0.2.7"), ("testclient", "testclient")],
)
def test_an_ipv6_network_counts_as_one_address(address: str, network: str) -> None:
    assert network_of(address) == network
