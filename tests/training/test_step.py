"""The objective, one step of it, and its evaluation."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tada_jax.methods.table import METHODS
from tada_jax.setup import build
from tada_jax.setup.plan import load_data
from tada_jax.system import backend
from tada_jax.system.pixels import to_float
from tada_jax.training import step as training_step
from tada_jax.training.heldout import make_evaluation
from tests import tiny


@pytest.mark.parametrize(
    ("method", "fields"),
    [  # of TADA alone: test_scaling.py
        ("scoreaug+tada", {"model__class_conditional": True, "train__class_dropout": 0.5}),
        ("sda", {"augment__ops": tiny.MOVES}),
    ],
)
def test_one_and_eight_devices_give_the_same_losses(method, fields):
    config = tiny.config(method, **fields)
    one, losses_1, _ = tiny.run_steps(config, 5, jax.devices()[:1])
    eight, losses_8, _ = tiny.run_steps(config, 5, jax.devices()[:8])
    assert len(jax.devices()) >= 8
    np.testing.assert_allclose(losses_1, losses_8, rtol=1e-4)
    for a, b in zip(jax.tree.leaves(one.params), jax.tree.leaves(eight.params)):
        np.testing.assert_allclose(a, b, atol=2e-3)  # Adam divides tiny gradients by themselves


def test_one_compilation_and_the_same_numbers_every_time():
    fields = {"model__class_conditional": True, "model__dropout": 0.3}
    config = tiny.config(augment__ops=tiny.MOVES, **fields)
    first, losses, compilations = tiny.run_steps(config, 4, jax.devices()[:1])
    again, losses_again, of_both = tiny.run_steps(config, 4, jax.devices()[:1])
    assert compilations == of_both == 1  # equal runs in a process share the program
    assert losses == losses_again
    tiny.assert_trees_equal(first, again)
    scanned, _, _ = tiny.run_steps(config, 4, jax.devices()[:1], steps_per_call=2)
    for a, b in zip(jax.tree.leaves(scanned.params), jax.tree.leaves(first.params)):
        np.testing.assert_allclose(a, b, atol=1e-4)


@pytest.mark.parametrize(
    ("method", "levels", "parameterisation", "variance"),
    [
        *((method, "cosine", "eps", "learned_range") for method in METHODS),
        ("tada", "linear", "x0", "fixed_small"),
        ("constant", "cosine", "v", "fixed_large"),
        ("tada", "edm", "edm", "fixed_small"),
        ("ar+tada", "flow", "flow", "fixed_small"),
    ],
)
def test_every_method_and_formulation_lowers_its_loss_in_one_compilation(
    method, levels, parameterisation, variance, monkeypatch
):
    config = tiny.config(
        method,
        augment__ops=tiny.MOVES if levels == "flow" else tiny.OPS,
        schedule__name=levels,
        diffusion__parameterisation=parameterisation,
        diffusion__variance=variance,
        optimizer__learning_rate=3e-3,
    )
    monkeypatch.setattr(build, "unet", types.SimpleNamespace(UNet=tiny.NormedNet))
    _, losses, compilations = tiny.run_steps(config, 40, jax.devices()[:1])
    assert np.mean(losses[-5:]) < 0.9 * np.mean(losses[:3])
    assert compilations == 1


@pytest.mark.parametrize(
    ("method", "strength", "changed"),
    [("none", None, 0.0), ("hflip", None, 0.5), ("constant", 0.7, 0.8), ("tada", None, 0.8)],
)
def test_methods_are_what_they_say(method, strength, changed):
    """Share of images that augmentation changes at a noise level far from the band."""
    config = tiny.config(method, constant_strength=0.7, augment__ops=tiny.MOVES)
    parts = build.parts(config, (8, 8, 1))
    x = to_float(jnp.asarray(load_data(tiny.config(data__train_size=1000)).train.images))
    w = parts.strength(jnp.full(len(x), -15.0))
    if strength:
        np.testing.assert_allclose(w, strength)
    y = jax.jit(parts.method)(jax.random.key(0), x, jnp.zeros_like(x), w).x0
    assert np.mean(np.any(np.asarray(x != y), (1, 2, 3))) == pytest.approx(changed, abs=0.06)
    if method == "hflip":
        either = (np.asarray(x == y) | np.asarray(x[:, :, ::-1] == y)).all()
        assert either


def test_ema_follows_its_decay_after_a_warmup():
    assert float(training_step.ema_decay(0, 0.999, warmup=True)) == pytest.approx(0.1)
    assert float(training_step.ema_decay(89, 0.999, warmup=True)) == pytest.approx(90 / 99)
    assert float(training_step.ema_decay(10**6, 0.999, warmup=True)) == pytest.approx(0.999)
    assert training_step.ema_decay(0, 0.999, warmup=False) == 0.999


def finite_but(step, monkeypatch):
    """Makes the loss of one step a NaN."""
    real = training_step.loss_fn
    _, key_step = training_step.step_keys(0)
    bad = jax.random.key_data(jax.random.fold_in(key_step, step))

    def loss_fn(params, rng, *args):
        terms = real(params, rng, *args)
        poison = jnp.where((jax.random.key_data(rng) == bad).all(), jnp.nan, 1.0)
        return terms | {"loss": terms["loss"] * poison}

    monkeypatch.setattr(training_step, "loss_fn", loss_fn)


def test_a_step_that_is_not_finite_is_skipped_and_counted(monkeypatch):
    config = tiny.config(train__nonfinite="skip")
    dataset = load_data(config)
    parts = build.parts(config, (8, 8, 1))
    finite_but(1, monkeypatch)
    step = jax.jit(
        lambda state, tally: training_step.train_step(
            state, tally, dataset.train.images[:16], None, seed=0, parts=parts, config=config
        )
    )
    states = [tiny.state(parts)]
    tally = training_step.empty_tally(parts)
    losses = []
    for _ in range(3):
        state, tally = step(states[-1], tally)
        states.append(state)
        losses.append(float(tally.means.compute()["loss"]))
    assert (int(tally.nonfinite), int(tally.first_nonfinite)) == (1, 1)
    assert np.isfinite(losses).all() and losses[0] == losses[1] != losses[2]
    assert [int(s.step) for s in states] == [0, 1, 2, 3]
    for name in ("params", "ema_params", "opt_state"):
        tiny.assert_trees_equal(getattr(states[1], name), getattr(states[2], name))
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), states[2].params, states[3].params)
    assert (
        any(jax.tree.leaves(moved))
        and np.isfinite(np.concatenate([np.ravel(a) for a in jax.tree.leaves(states[3])])).all()
    )


@pytest.mark.usefixtures("whole_network")  # which predicts 0 at first
def test_evaluation_sees_every_noise_level_and_sorts_by_it():
    config = tiny.config(schedule__total_timesteps=200)
    dataset = load_data(config)
    parts = build.parts(config, (8, 8, 1))
    mesh = backend.data_mesh(16)
    evaluate = make_evaluation(parts, config, mesh, examples=1000)
    assert evaluate.examples == 1008
    found = evaluate(tiny.params(parts), dataset.train.images, None)
    assert found.mse.shape == found.logsnr.shape == (1008,)
    levels = np.unique(found.logsnr)
    np.testing.assert_allclose(levels, np.sort(parts.schedule.log_snr_table))
    # A fresh network predicts 0, so the squared error is that of the noise: 1 at every level.
    by_level = found.by_logsnr()
    assert list(by_level) == sorted(by_level) and len(by_level) > 8
    np.testing.assert_allclose(list(by_level.values()), 1.0, atol=0.25)
    assert found.mean == pytest.approx(np.mean(found.mse))
    assert all(centre % 2 == 1 for centre in by_level)
