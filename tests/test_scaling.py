"""One training step on many devices, in pieces, or with its state spread: the same numbers."""

import collections
import functools
import re

import jax
import numpy as np
import pytest

from tada_jax import backend, build, loop, resample, training
from tada_jax.data.order import shuffled
from tada_jax.errors import UserError
from tests import tiny

COLLECTIVES = "all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter"


def make(devices, **fields):
    """(compiled step, arguments) of the tiny run on some of the devices."""
    config = tiny.config(**fields)
    mesh = backend.data_mesh(config.train.batch_size, jax.devices()[:devices])
    parts = build.parts(config, (8, 8, 1))
    images = np.random.default_rng(0).integers(0, 256, (50, 8, 8, 1), np.uint8)
    where = training.state_sharding(parts, config, mesh)
    seed = np.uint32(0)
    state = jax.jit(lambda s: training.init_state(parts, s), out_shardings=where)(seed)
    tally = jax.device_put(training.empty_tally(parts), backend.replicated(mesh))
    fetch = training.resident_batches(config, shuffled(50), backend.over_batch(mesh))
    steps = training.make_steps(parts, config, mesh, fetch)
    args = state, tally, seed, backend.put_whole(images, mesh), None
    return steps.lower(*args, 1).compile(), args


@functools.cache
def trained(devices, **fields):
    """Parameters and losses after four steps, and the compiled step."""
    step, (state, tally, *rest) = make(devices, **fields)
    losses = []
    for _ in range(4):
        state, tally = step(state, tally, *rest)
        losses.append(float(tally.means.compute()["loss"]))
    return jax.device_get(state.params), losses, step


def collectives(compiled):
    """How often each kind of message is in a compiled program."""
    return collections.Counter(re.findall(rf" ({COLLECTIVES})(?:-start)?\(", compiled.as_text()))


def assert_same(found, wanted):
    """Equal up to the order of sums; Adam divides by small numbers at first."""
    np.testing.assert_allclose(found[1], wanted[1], rtol=1e-4)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=3e-4), found[0], wanted[0]
    )


@pytest.mark.parametrize("devices", [2, 4, 8])
def test_the_same_on_any_number_of_devices_with_one_message_a_step(devices):
    assert_same(trained(devices), trained(1))
    found = collectives(trained(devices)[2])
    assert found == {"all-reduce": 1}, found  # of the gradient; neither data nor parameters move
    assert not collectives(trained(1)[2])


def test_augmentation_in_chunks_sends_nothing(monkeypatch):
    monkeypatch.setattr(resample, "CHUNK_PIXELS", 8 * 8)
    step, _ = make(4, train__batch_size=16)
    assert "while" in step.as_text()
    assert collectives(step) == {"all-reduce": 1}


def test_a_batch_in_pieces_has_the_same_gradient():
    whole = trained(2)
    assert_same(trained(2, train__microbatch=4), whole)
    # Conditional on classes and on the augmentation, with terms of every kind.
    config = tiny.config("ar", model__class_conditional=True, train__class_dropout=0.2)
    parts = build.parts(config, (8, 8, 1), 10)
    params = parts.init_params(jax.random.key(0))
    x0, labels = jax.random.uniform(jax.random.key(1), (8, 8, 8, 1)), np.arange(8)
    at_once, in_pieces = (
        jax.jit(
            lambda p, pieces=n: training.gradient(
                p, jax.random.key(2), x0, labels, parts, pieces=pieces
            )
        )(params)
        for n in (1, 4)
    )
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-6), at_once, in_pieces
    )


@pytest.mark.parametrize("on_cpu", [True, False])
def test_pieces_take_less_memory(on_cpu, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "cpu" if on_cpu else "gpu")
    config = tiny.config(model__channels=16, model__channel_mult=(1, 1))
    parts = build.parts(config, (8, 8, 1))
    params = jax.eval_shape(parts.init_params, jax.random.key(0))
    x0 = jax.ShapeDtypeStruct((64, 8, 8, 1), np.float32)

    def temporary(pieces):
        grad = lambda p, x0: training.gradient(  # noqa: E731
            p, jax.random.key(0), x0, None, parts, pieces=pieces
        )
        return jax.jit(grad).lower(params, x0).compile().memory_analysis().temp_size_in_bytes

    assert temporary(8) < 0.5 * temporary(1)


def test_a_state_that_is_spread_trains_alike_and_takes_less(monkeypatch):
    monkeypatch.setattr(backend, "FEWEST_TO_SPREAD", 64)
    found = trained(4, train__sharding="fsdp")
    assert_same(found, trained(1))
    step, (state, *_) = make(4, train__sharding="fsdp")
    held = sum(a.addressable_shards[0].data.nbytes for a in jax.tree.leaves(state))
    whole = sum(a.nbytes for a in jax.tree.leaves(state))
    assert held < 0.35 * whole
    spread = sum(not a.sharding.is_fully_replicated for a in jax.tree.leaves(state.params))
    messages = collectives(step)
    assert 0 < messages["all-gather"] <= spread  # each of the parameters once, and no data
    assert not messages["all-to-all"] and not messages["collective-permute"]


def test_a_spread_state_is_saved_and_continued(tmp_path, monkeypatch):
    monkeypatch.setattr(backend, "FEWEST_TO_SPREAD", 64)
    config = tiny.config(train__sharding="fsdp", train__total_steps=3)
    loop.train(config, tmp_path)
    config.train.total_steps = 6
    state = loop.train(config, tmp_path)
    assert not all(a.sharding.is_fully_replicated for a in jax.tree.leaves(state.params))
    config.train.sharding = "replicated"  # and with all of it everywhere
    config.train.total_steps = 7
    assert int(loop.train(config, tmp_path).step) == 7


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"train__microbatch": 5}, "microbatch=5 does not divide config.train.batch_size=16"),
        ({"train__microbatch": 4}, "microbatch=4 does not divide over 8 devices"),
        ({"train__sharding": "some"}, "sharding='some' is unknown"),
    ],
)
def test_refuses_in_one_line(fields, message, tmp_path):
    with pytest.raises(UserError, match=message):
        loop.train(tiny.config(**fields), tmp_path / "run")
