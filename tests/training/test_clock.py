"""When copies begin: rules on curves whose answers are known."""

import math

import numpy as np
import pytest
from scipy import stats

from tada_jax.training import clock


def run(copies, fd=None, every=100, real=0.01, losses=None):
    """Lines of a metrics.jsonl: a look every so many steps, and lines between them."""
    fd = [1.0] * len(copies) if fd is None else fd
    lines = []
    for i, (c, d) in enumerate(zip(copies, fd)):
        step = every * (i + 1)
        lines.append({"step": step - every // 2, "loss": 1.0})
        lines.append({"step": step, "fd": d, "copies": c, "copies_real": real})
        if losses:
            lines[-1]["test_mse"] = losses[i]
    return lines


def read(copies, **options):
    return clock.read(run(copies, **options), samples=200, held_out=400)


def test_the_threshold_is_where_intervals_part():
    least = clock.least_share(0.01, samples=200, held_out=400)
    real = stats.binomtest(4, 400).proportion_ci(method="wilson")
    low = [stats.binomtest(k, 200).proportion_ci(method="wilson").low for k in range(201)]
    at = round(200 * least)
    assert low[at] > real.high >= low[at - 1]
    assert 0.04 < least < 0.07
    assert clock.least_share(0.01, samples=2000, held_out=4000) < least
    assert clock.least_share(1.0, samples=200, held_out=400) == math.inf  # nothing is above all


def test_copies_begin_where_the_line_between_two_looks_passes_the_threshold():
    least = clock.least_share(0.01, samples=200, held_out=400)
    found = read([0.0, 0.0, 2 * least, 3 * least])
    assert found.tau_mem == pytest.approx(250)
    assert found.threshold == least and found.copies == 3 * least
    assert (found.last, found.below) == (400, 200)
    assert read([0.5, 0.6]).tau_mem == 100  # no earlier look


def test_looks_that_were_measured_otherwise_do_not_count():
    lines = run([0.5, 0.5, 0.0, 0.0, 0.5, 0.5], fd=[0.1, 0.1, 1.0, 0.8, 0.9, 0.9])
    looks = [line for line in lines if "fd" in line]
    for i, look in enumerate(looks):
        look["yardstick"] = 1 if i < 2 else 2
    found = clock.read(lines, samples=200, held_out=400)
    assert 400 < found.tau_mem < 500 and found.tau_gen == 400
    del looks[0]["yardstick"], looks[1]["yardstick"]  # of before there were any: as the others
    assert clock.read(lines, samples=200, held_out=400).tau_mem == 100


def test_what_was_seen_can_be_marked():
    own = read([0.0, 0.0, 0.5, 0.5, 0.5], losses=[3, 2, 4, 5, 6])
    assert own.marks()["copies begin"] == own.tau_mem
    assert own.marks()["held-out loss lowest"] == own.turn == 200
    assert set(read([0.0, 0.0]).marks()) <= {"samples good"}


def test_once_is_no_beginning():
    assert read([0.0, 0.5, 0.0, 0.0]).tau_mem is None
    alone = read([0.0, 0.0, 0.5])
    assert alone.tau_mem is None and alone.below == 200  # which is what it is later than
    assert read([0.0, 0.5, 0.0, 0.5, 0.5]).tau_mem > 300


def test_good_is_near_the_lowest_distance_and_the_loss_turns_where_it_is_lowest():
    found = read([0.0] * 4, fd=[5.0, 1.05, 1.0, 1.2], losses=[0.3, 0.2, 0.1, 0.2])
    assert found.tau_gen == 200 and found.turn == 300
    falling = read([0.0] * 4, fd=[5.0, 1.05, 1.0, 0.99], losses=[0.4, 0.3, 0.2, 0.1])
    assert falling.tau_gen is None and falling.turn is None  # both still fall at the end
    assert falling.last_loss == 400
    without = read([0.0] * 4)
    assert without.turn is None and without.last_loss is None


def test_the_window_is_entered_when_three_looks_brought_little():
    assert read([0.0] * 7, fd=[9.0, 5.0, 2.0, 1.95, 1.9, 1.95, 1.9]).entered == 600
    assert read([0.0] * 60, fd=list(10.0 * 0.96 ** np.arange(60))).entered is None


def test_without_two_looks_there_is_no_clock():
    assert read([0.3]) is None
    assert clock.read([{"step": 1, "loss": 1.0}], samples=200, held_out=400) is None
    lines = run([0.1, 0.2])
    del lines[1]["fd"]  # was not finite
    assert clock.read(lines, samples=200, held_out=400) is None


def test_a_power_is_found_again():
    sizes = np.repeat([50, 100, 200], 3)
    exact = clock.fit(sizes, 7.0 * sizes**0.8)
    assert exact.c == pytest.approx(7.0) and exact.a == pytest.approx(0.8)
    tau, (low, high) = exact.predict(1000)
    assert tau == pytest.approx(7.0 * 1000**0.8) and low == pytest.approx(high)
    assert clock.fit([50, 50, 50], [1.0, 2.0, 3.0]) is None
    assert clock.fit([50, 100], [1.0, 2.0]) is None


def test_intervals_hold_what_they_promise():
    """In 19 of 20 repetitions of a made-up experiment."""
    rng, inside = np.random.default_rng(0), np.zeros(3)
    sizes = np.repeat([50, 100, 200], 3)
    for _ in range(400):
        noisy = 7.0 * sizes**0.8 * np.exp(0.2 * rng.standard_normal(9))
        found = clock.fit(sizes, noisy)
        low, high = found.predict(1000)[1]
        new = 7.0 * 1000**0.8 * np.exp(0.2 * rng.standard_normal())
        inside += (
            found.a_interval[0] < 0.8 < found.a_interval[1],
            found.c_interval[0] < 7.0 < found.c_interval[1],
            low < new < high,
        )
    np.testing.assert_allclose(inside / 400, 0.95, atol=0.03)


def a_clock(tau_mem, last=1000):
    return clock.Clock(100.0, None, tau_mem, last, None, last, None, 0.0, 0.05, first=50)


def test_a_factor_is_of_pairs_and_bounded_by_runs_that_have_not_begun():
    found = clock.factor([(a_clock(400.0), a_clock(100.0)), (a_clock(100.0), a_clock(100.0))])
    assert found.value == pytest.approx(2.0) and found.pairs == 2 and not found.bounds
    low, high = found.interval
    assert low * high == pytest.approx(4.0) and low < 2.0 < high
    late = clock.factor([(a_clock(None), a_clock(100.0)), (a_clock(400.0), a_clock(None))])
    assert late == clock.Factor(pytest.approx(10.0), None, 1, 1, dropped=1)
    assert clock.factor([(a_clock(100.0), a_clock(None))]) is None


def test_what_copied_at_its_first_look_is_a_bound():
    early = clock.factor([(a_clock(400.0), a_clock(50.0)), (a_clock(200.0), a_clock(100.0))])
    assert early.value == pytest.approx(4.0) and early.bounds == 1 and early.interval is None
    unknown = clock.factor([(a_clock(50.0), a_clock(50.0)), (a_clock(200.0), a_clock(100.0))])
    assert unknown.value == pytest.approx(2.0) and unknown.dropped == 1
    assert clock.factor([(a_clock(50.0), a_clock(50.0))]) is None
    assert a_clock(50.0).at_once and not a_clock(51.0).at_once and not a_clock(None).at_once
