"""The throttle: never over its rate, and always ready when it says so."""

from hypothesis import example, given
from hypothesis import strategies as st

from mpchat.chat.state.throttle import Throttle

# What an operator may well configure, and clocks of a machine that has been up for up to ten years.
RATES = st.floats(0.01, 10_000)
BURSTS = st.integers(1, 1000)
CLOCKS = st.floats(0, 3e8)
PAUSES = st.one_of(st.just(0.0), st.floats(0, 0.01), st.floats(0, 1000))


@given(RATES, BURSTS, CLOCKS, st.lists(st.tuples(PAUSES, st.integers(0, 2000)), max_size=50))
def test_never_more_than_the_burst_and_the_rate(
    rate: float, burst: int, start: float, steps: list[tuple[float, int]]
) -> None:
    throttle, now, passed = Throttle(rate, burst, start), start, [(start, 0)]
    for pause, wanted in steps:
        now += pause
        lines = min(wanted, throttle.allowance(now))
        throttle.spend(lines)
        passed.append((now, lines))
    for first, (since, _) in enumerate(passed):
        for last in range(first, len(passed)):
            lines = sum(count for _, count in passed[first : last + 1])
            assert lines <= burst + rate * (passed[last][0] - since) + 1e-6


@given(RATES, BURSTS, CLOCKS, st.lists(PAUSES, max_size=20))
@example(1000.0, 1, 1e6, [0.0])
@example(10_000.0, 1, 2e8 + 0.1, [0.0, 0.0])
def test_a_line_may_pass_when_it_says_so(rate: float, burst: int, start: float, pauses: list[float]) -> None:
    throttle, now = Throttle(rate, burst, start), start
    for pause in pauses:
        now += pause
        throttle.spend(throttle.allowance(now))
        ready = throttle.ready_at(now)
        assert now < ready <= now + 1 / rate + 1e-5
        now = ready
        assert throttle.allowance(now) >= 1
        assert throttle.ready_at(now) == now


@given(RATES, BURSTS, CLOCKS)
def test_after_a_long_pause_a_whole_burst_may_pass_and_no_more(rate: float, burst: int, start: float) -> None:
    throttle = Throttle(rate, burst, start)
    assert throttle.allowance(start) == burst
    throttle.spend(burst)
    assert throttle.allowance(start + 1e-3 + 2 * burst / rate) == burst


def test_a_pasted_block_passes_whole_one_after_the_other() -> None:
    throttle, now, times = Throttle(10.0, 5, 100.0), 100.0, []
    for _ in range(15):
        now = throttle.ready_at(now)
        throttle.spend(1)
        times.append(round(now - 100.0, 3))
    assert times == [0, 0, 0, 0, 0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]


def test_a_clock_that_goes_back_earns_nothing() -> None:
    throttle = Throttle(1.0, 2, 100.0)
    throttle.spend(throttle.allowance(100.0))
    assert throttle.allowance(50.0) == 0
    assert throttle.allowance(100.5) == 0
    assert throttle.allowance(101.0) == 1


def test_no_rate_is_no_limit() -> None:
    throttle = Throttle(0, 1, 0.0)
    for _ in range(3):
        assert throttle.allowance(0.0) == Throttle.UNLIMITED
        throttle.spend(Throttle.UNLIMITED)
        assert throttle.ready_at(0.0) == 0.0
