"""One training step on many devices, in pieces, or with its state spread: the same numbers."""

import collections
import dataclasses
import functools
import re
import types

import jax
import numpy as np
import pytest

import tada_jax
from tada_jax import resample
from tada_jax.data.order import shuffled
from tada_jax.setup import build
from tada_jax.system import backend, memo
from tada_jax.system.errors import UserError
from tada_jax.training import loop
from tada_jax.training.heldout import make_evaluation
from tada_jax.training.step import (
    empty_tally,
    gradient,
    make_steps,
    resident_batches,
    state_shapes,
    state_sharding,
)
from tests import tiny

COLLECTIVES = "all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter"


def make(devices, **fields):
    """(compiled step, arguments) of the tiny run, of digits that move, on some of the devices."""
    config = tiny.config(**{"augment__ops": tiny.MOVES} | fields)
    mesh = backend.data_mesh(config.train.batch_size, jax.devices()[:devices])
    parts = build.parts(config, (8, 8, 1))
    images = np.random.default_rng(0).integers(0, 256, (50, 8, 8, 1), np.uint8)
    where = state_sharding(parts, config, mesh)
    seed = np.uint32(0)
    state = jax.device_put(tiny.state(parts), where)
    tally = jax.device_put(empty_tally(parts), backend.replicated(mesh))
    fetch = resident_batches(config, shuffled(50), backend.over_batch(mesh))
    steps = make_steps(parts, config, mesh, fetch)
    args = state, tally, seed, backend.put_whole(images, mesh), None
    return steps.lower(*args, 1).compile(), args


@functools.cache
def trained(devices, **fields):
    """Parameters and losses after four steps, the compiled step, and the whole state."""
    step, (state, tally, *rest) = make(devices, **fields)
    losses = []
    for _ in range(4):
        state, tally = step(state, tally, *rest)
        losses.append(float(tally.means.compute()["loss"]))
    return jax.device_get(state.params), losses, step, state


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


def test_a_batch_that_does_not_divide_uses_fewer_devices():
    said = []

    def mesh(size, n=8):
        return backend.data_mesh(size, jax.devices()[:n], warn=said.append).size

    assert [mesh(n) for n in (8, 16)] == [8, 8] and not said
    assert [mesh(n) for n in (12, 13, 4, 1)] == [6, 1, 4, 1]
    assert said[0] == (
        "warning: 6 of 8 devices are used, since config.train.batch_size=12 does not divide over "
        "more: a multiple of 8 uses all"
    )
    assert mesh(32, 3) == 2 and "a multiple of 3 uses all" in said[-1]
    # One message a step, as where all are used; and the same numbers as on one.
    of_12 = trained(8, train__batch_size=12, augment__ops=tiny.OPS)
    assert_same(of_12, trained(1, train__batch_size=12, augment__ops=tiny.OPS))
    _, _, step, state = of_12
    assert len(jax.tree.leaves(state)[0].sharding.device_set) == 6
    assert collectives(step) == {"all-reduce": 1}


@dataclasses.dataclass(frozen=True)
class Process:
    """What of a device says whose it is."""

    process_index: int
    id: int


def test_every_process_has_equally_many_devices(monkeypatch):
    taken = []
    monkeypatch.setattr(jax, "make_mesh", lambda *_, devices: taken.append(devices))
    devices = [Process(p, i) for p in range(2) for i in range(4)]
    backend.data_mesh(12, devices)
    assert [(d.process_index, d.id) for d in taken[0]] == [(p, i) for p in (0, 1) for i in range(3)]
    with pytest.raises(UserError, match="batch_size=9 does not divide over 2 processes"):
        backend.data_mesh(9, devices)


def test_losses_of_a_run_do_not_depend_on_the_devices():
    config = tiny.config(train__batch_size=12)
    parts = build.parts(config, (8, 8, 1))
    params = tiny.params(parts)
    images = np.random.default_rng(0).integers(0, 256, (30, 8, 8, 1), np.uint8)
    found = []
    for devices in (1, 6, 8):
        mesh = backend.data_mesh(devices, jax.devices()[:devices])
        evaluate = make_evaluation(parts, config, mesh, 30)
        here = jax.device_put(params, backend.replicated(mesh))
        found.append(evaluate(here, backend.put_whole(images, mesh), None))
    for other in found[1:]:
        assert other.mse.shape == (36,)
        np.testing.assert_allclose(other.mse, found[0].mse, rtol=1e-4)


def test_a_run_on_some_devices_is_sampled_and_continued_on_others(tmp_path, capsys, monkeypatch):
    """Its last step evaluates the losses on the six of them."""
    config = tiny.config(train__total_steps=2, train__batch_size=6, train__microbatch=6)
    loop.train(config, tmp_path)
    assert "warning: 6 of 8 devices are used, since config.train.microbatch=6" in (
        capsys.readouterr().err
    )
    assert tada_jax.load_run(tmp_path).sample(2).shape == (2, 8, 8, 1)
    real = backend.data_mesh

    def on_five(size, devices=None, **options):
        return real(size, devices or jax.devices()[:5], **options)

    monkeypatch.setattr(backend, "data_mesh", on_five)
    config.train.total_steps = 3
    state = loop.train(config, tmp_path)
    assert int(state.step) == 3 and len(state.step.sharding.device_set) == 3
    assert "warning: 3 of 5 devices are used" in capsys.readouterr().err


def test_augmentation_in_chunks_sends_nothing(monkeypatch):
    monkeypatch.setattr(resample, "CHUNK_PIXELS", 8 * 8)
    step, _ = make(4, train__batch_size=16)
    assert "while" in step.as_text()
    assert collectives(step) == {"all-reduce": 1}


def test_a_batch_in_pieces_has_the_same_gradient():
    whole = trained(2)
    assert_same(trained(2, train__microbatch=8), whole)
    # Conditional on classes and on the augmentation, with terms of every kind.
    classes = {"model__class_conditional": True, "train__class_dropout": 0.2}
    config = tiny.config("ar", augment__ops=tiny.MOVES, **classes)
    parts = build.parts(config, (8, 8, 1), 10)
    params = tiny.params(parts)
    x0, labels = jax.random.uniform(jax.random.key(1), (8, 8, 8, 1)), np.arange(8)
    at_once, in_pieces = (
        jax.jit(
            lambda p, pieces=n: gradient(p, jax.random.key(2), x0, labels, parts, pieces=pieces)
        )(params)
        for n in (1, 2)
    )
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-6), at_once, in_pieces
    )


@pytest.mark.parametrize("platform", ["cpu", "gpu"])
def test_pieces_take_less_memory(platform, monkeypatch):
    monkeypatch.setattr(build, "unet", types.SimpleNamespace(UNet=tiny.NormedNet))
    parts = build.parts(tiny.config(), (8, 8, 1))
    params = jax.eval_shape(parts.init_params, jax.random.key(0))
    x0 = jax.ShapeDtypeStruct((64, 8, 8, 1), np.float32)

    def temporary(pieces):
        def grad(p, x0):
            return gradient(p, jax.random.key(0), x0, None, parts, pieces=pieces)

        with backend.traced_for(platform):
            lowered = jax.jit(grad).lower(params, x0)
        return lowered.compile().memory_analysis().temp_size_in_bytes

    assert temporary(4) < 0.6 * temporary(1)


@pytest.mark.usefixtures("whole_network")
def test_a_step_is_lowered_for_devices_that_are_not_here():
    """Each in its own forms: nothing in it asks which devices this machine has."""
    fields = {"model__channel_mult": (1, 1), "model__attention_resolutions": (4,)}
    config = tiny.config(augment__ops=tiny.MOVES, **fields)
    parts, mesh = build.parts(config, (8, 8, 1)), backend.data_mesh(2, jax.devices()[:2])
    state, tally = (
        jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), tree)
        for tree in (state_shapes(parts, config), jax.eval_shape(lambda: empty_tally(parts)))
    )
    images = jax.ShapeDtypeStruct((50, 64), np.uint8)
    fetch = resident_batches(config, shuffled(50), backend.over_batch(mesh))
    operations = {}
    for platform, name in (("cpu", "cpu"), ("gpu", "cuda"), ("tpu", "tpu")):
        memo.forget()
        steps = make_steps(parts, config, mesh, fetch)
        with backend.traced_for(platform):
            traced = steps.trace(state, tally, np.uint32(0), images, None, 1)
        text = traced.lower(lowering_platforms=(name,)).as_text()
        operations[platform] = collections.Counter(re.findall(r"stablehlo\.(\w+)", text))
    assert operations["tpu"]["reduce_window"] and not operations["gpu"]["reduce_window"]
    assert operations["tpu"]["gather"] < operations["gpu"]["gather"]  # those that choose the batch
    assert operations["cpu"] != operations["gpu"]
    memo.forget()


@pytest.mark.usefixtures("whole_network")
@pytest.mark.parametrize("platform", ["gpu", "tpu"])
def test_forms_for_other_devices_compute_the_same_with_one_message_a_step(platform):
    fields = {"model__channel_mult": (1, 1), "model__attention_resolutions": (4,)}
    wanted = trained(1, **fields)
    memo.forget()
    with backend.traced_for(platform):
        found = trained.__wrapped__(4, **fields)
    memo.forget()
    assert_same(found, wanted)
    assert collectives(found[2]) == {"all-reduce": 1}


def test_a_state_that_is_spread_trains_alike_and_takes_less(monkeypatch):
    monkeypatch.setattr(backend, "FEWEST_TO_SPREAD", 64)
    found = trained(8, train__sharding="fsdp")  # as in the run below
    assert_same(found, trained(1))
    _, _, step, state = found
    held = sum(a.addressable_shards[0].data.nbytes for a in jax.tree.leaves(state))
    whole = sum(a.nbytes for a in jax.tree.leaves(state))
    assert held < 0.35 * whole
    spread = sum(not a.sharding.is_fully_replicated for a in jax.tree.leaves(state.params))
    messages = collectives(step)
    assert 0 < messages["all-gather"] <= spread  # each of the parameters once, and no data
    assert not messages["all-to-all"] and not messages["collective-permute"]


def test_a_spread_state_is_saved_and_continued(tmp_path, monkeypatch):
    monkeypatch.setattr(backend, "FEWEST_TO_SPREAD", 64)
    config = tiny.config(train__sharding="fsdp", train__total_steps=3, augment__ops=tiny.MOVES)
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
        ({"train__sharding": "some"}, "sharding='some' is unknown"),
    ],
)
def test_refuses_in_one_line(fields, message, tmp_path):
    with pytest.raises(UserError, match=message):
        loop.train(tiny.config(**fields), tmp_path / "run")
