"""Post-hoc EMA: the published constants, the weights of the averages, and their reconstruction."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tada_jax.model import ema
from tada_jax.setup.plan import plan
from tada_jax.system.errors import UserError
from tada_jax.training import loop
from tada_jax.training.run import load_run
from tests import tiny


@pytest.mark.parametrize(("width", "gamma"), [(0.05, 16.97), (0.1, 6.94)])
def test_exponents_of_the_published_widths(width, gamma):
    assert ema.exponent(width) == pytest.approx(gamma, abs=0.01)
    assert ema.width(ema.exponent(width)) == pytest.approx(width, rel=1e-9)


def test_a_width_is_the_deviation_of_the_profile():
    gamma, t = ema.exponent(0.13), (np.arange(200_000) + 0.5) / 200_000
    weight = t**gamma / (t**gamma).sum()
    mean = (weight * t).sum()
    assert np.sqrt((weight * (t - mean) ** 2).sum()) == pytest.approx(0.13, abs=1e-4)


@pytest.mark.parametrize("width", [0.0, -1.0, 0.29, 2.0])
def test_impossible_widths_are_refused(width):
    with pytest.raises(ValueError, match="width"):
        ema.exponent(width)
    with pytest.raises(UserError, match="ema"):
        plan(tiny.config(ema__widths=(width,)))


def averages(values, widths):
    """{width: [average after each step]} of a sequence of scalars."""
    found = {}
    for width in widths:
        average, gamma, history = jnp.float32(0), ema.exponent(width), []
        step = jax.jit(lambda a, v, t, g=gamma: ema.update(a, v, t, g))
        for t, value in enumerate(values):
            average = step(average, value, t)
            history.append(float(average))
        found[width] = np.array(history)
    return found


@pytest.mark.parametrize("step", [0, 1, 1_000, 1_000_000, 10_000_000])
def test_the_newest_parameters_weigh_what_they_should_after_however_many_steps(step):
    gamma = ema.exponent(0.1)
    found = jax.jit(ema.update)(jnp.float32(0), jnp.float32(1), jnp.int32(step), gamma)
    wanted = -np.expm1((gamma + 1) * np.log1p(-1 / (step + 1))) if step else 1.0
    assert float(found) == pytest.approx(wanted, rel=1e-5)


def test_an_average_is_the_weighted_sum_of_its_history():
    values = np.random.default_rng(0).normal(size=300)
    gamma = ema.exponent(0.1)

    def beta(t):
        return (1 - 1 / t) ** (gamma + 1)

    weights = [(1 - beta(t)) * np.prod([beta(s) for s in range(t + 1, 301)]) for t in range(1, 301)]
    assert sum(weights) == pytest.approx(1)
    assert averages(values, [0.1])[0.1][-1] == pytest.approx(np.dot(weights, values), abs=1e-5)


def test_other_widths_and_steps_follow_from_what_was_stored():
    """On a random walk, as parameters do; every tenth of training is stored."""
    rng = np.random.default_rng(1)
    values = np.cumsum(rng.normal(size=2000)) / 20 + 5
    direct = averages(values, [0.05, 0.1, 0.04, 0.07, 0.15, 0.25])
    stored = [(s, w) for s in range(200, 2001, 200) for w in (0.05, 0.1)]
    steps, gammas = [s for s, _ in stored], [ema.exponent(w) for _, w in stored]
    kept = [direct[w][s - 1] for s, w in stored]
    for step, width in ((2000, 0.05), (1200, 0.1), (2000, 0.07), (2000, 0.15), (1600, 0.07)):
        factors, error = ema.coefficients(steps, gammas, step, ema.exponent(width))
        found = float(ema.combine([np.float32(v) for v in kept], factors))
        exact = (step, width) in stored
        tolerance = 1e-4 if exact else 0.03 * values.std()
        assert found == pytest.approx(direct[width][step - 1], abs=tolerance), (step, width)
        assert error < (1e-6 if exact else 0.03)
    # Neither a much narrower profile, nor one that ends between two that were stored.
    for step, width in ((2000, 0.01), (1500, 0.07)):
        assert ema.coefficients(steps, gammas, step, ema.exponent(width))[1] > 0.3


def test_the_error_of_a_combination_is_that_of_its_weights():
    steps, gammas = [100, 250, 400, 400], [ema.exponent(w) for w in (0.1, 0.1, 0.1, 0.05)]
    gamma, t = ema.exponent(0.08), (np.arange(400_000) + 0.5) / 1000

    def profile(end, g):
        return np.where(t < end, (g + 1) * t**g / end ** (g + 1), 0)

    factors, error = ema.coefficients(steps, gammas, 400, gamma)
    found = sum(f * profile(s, g) for f, s, g in zip(factors, steps, gammas))
    wanted = profile(400, gamma)
    expected = np.sqrt(((found - wanted) ** 2).sum() / (wanted**2).sum())
    assert error == pytest.approx(expected, rel=1e-2) and 0.001 < error < 0.2


@pytest.fixture(scope="module")
def tracked(tmp_path_factory):
    """A run with snapshots at every second of its six steps: (config, workdir, state)."""
    config = tiny.config(ema__widths=(0.1, 0.2), ema__snapshot_every=2)
    workdir = tmp_path_factory.mktemp("tracked")
    return config, workdir, loop.train(config, workdir)


def test_a_run_keeps_snapshots_and_gives_any_average_back(tracked):
    _, workdir, state = tracked
    assert sorted(int(p.name) for p in (workdir / "ema").iterdir()) == [2, 4, 6]
    run = load_run(workdir)
    for width, expected in zip((0.1, 0.2), state.power_emas):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6),
            run.posthoc_ema(width),
            expected,
        )
    other = run.posthoc_ema(0.12, 6)
    assert jax.tree.structure(other) == jax.tree.structure(run.params)
    assert all(np.isfinite(a).all() for a in jax.tree.leaves(other))
    for arguments, message in (
        ((0.5,), "width"),
        ((0.1, 7), "not covered"),
        ((0.1, 1), "not covered"),
        ((0.01, 6), "miss it by .*; choose a width nearer to .*, and a step with a snapshot"),
    ):
        with pytest.raises(UserError, match=message):
            run.posthoc_ema(*arguments)


def test_samples_of_a_post_hoc_average(tracked):
    config, workdir, _ = tracked
    drawn = {}
    for width in (None, 0.1, 0.2):
        own = config.copy_and_resolve_references().unlock()
        own.sample.ema_width = width
        run = load_run(workdir, config=own)
        drawn[width] = run.sampled_params, run.weights_name
    assert [name for _, name in drawn.values()] == ["ema", "ema0.1", "ema0.2"]
    tiny.assert_trees_equal(drawn[None][0], load_run(workdir).ema_params)


def test_tracking_changes_nothing_else_and_resumes_bit_for_bit(tracked, finished, tmp_path):
    config, _, state = tracked
    tiny.assert_trees_equal(state.params, finished[2].params)
    first = tiny.config(ema__widths=(0.1, 0.2), ema__snapshot_every=2, train__total_steps=3)
    loop.train(first, tmp_path)
    tiny.assert_trees_equal(loop.train(config, tmp_path), state)


def test_snapshots_of_another_run_are_moved_aside(tracked, tmp_path):
    config, workdir, _ = tracked
    shutil.copytree(workdir, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    other = config.copy_and_resolve_references().unlock()
    other.seed = 7
    state = loop.train(other, tmp_path / "run")
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6),
        load_run(tmp_path / "run").posthoc_ema(0.1),
        state.power_emas[0],
    )
    assert (tmp_path / "run" / "damaged" / "ema" / "6").is_dir()


def test_without_an_own_step_the_last_snapshot_counts(tracked):
    config, workdir, _ = tracked
    own = config.copy_and_resolve_references().unlock()
    own.sample.ema_width, own.sample.checkpoint = 0.1, "3"
    run = load_run(workdir, config=own, checkpoint="3")
    assert run.step == 3 and run.sampled_step == 2
    tiny.assert_trees_equal(run.sampled_params, run.posthoc_ema(0.1, 2))


def test_without_snapshots_there_is_no_post_hoc_average(finished):
    with pytest.raises(UserError, match="config.ema.widths"):
        load_run(finished[1]).posthoc_ema(0.1)
