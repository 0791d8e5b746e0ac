"""Runs fed, balanced, in bfloat16, optimised, fine-tuned: the same, or what is expected."""

import dataclasses
import errno
import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tada_jax
from tada_jax.data import feed
from tada_jax.data.order import HostBatches
from tada_jax.model import unet
from tada_jax.setup import build
from tada_jax.setup.plan import plan
from tada_jax.system import logs
from tada_jax.system.errors import UserError
from tada_jax.training import loop, resume
from tada_jax.training import step as training_step
from tada_jax.training.describe import describe
from tada_jax.training.run import load_run
from tests import tiny

# Where the images lie, and in which order they come


def test_images_on_disk_are_trained_on_in_the_same_order(finished, tmp_path):
    _, _, whole = finished
    fed = loop.train(tiny.config(data__device_gib=0.0), tmp_path / "fed")
    if jax.__version__.startswith("0.10."):
        tiny.assert_trees_equal(fed, whole)
    else:  # these are two programs; newer compilers end in another last bit of two of 72 weights
        for a, b in zip(*map(jax.tree.leaves, (fed, whole))):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)
    first = tiny.config(data__device_gib=0.0, train__total_steps=4)
    loop.train(first, tmp_path / "resumed")
    resumed = loop.train(tiny.config(data__device_gib=0.0), tmp_path / "resumed")
    tiny.assert_trees_equal(resumed, fed)


def test_an_error_while_reading_ahead_ends_the_run_in_one_line(tmp_path, monkeypatch):
    config = tiny.config(data__device_gib=0.0)

    def broken(self, step):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(feed.Feed, "_batch", broken)
    with pytest.raises(UserError, match="Input/output error"):
        loop.train(config, tmp_path)


def test_a_balanced_order_shows_every_class_equally_often(finished, tmp_path):
    seen = {}
    for name in ("shuffled", "balanced"):
        planned = plan(tiny.config(data__order=name))
        key, _ = training_step.step_keys(planned.config.seed)
        batches = HostBatches(key, batch_size=16, order=planned.order)
        labels = planned.dataset.train.labels
        shown = np.concatenate([labels[batches(step)] for step in range(50)])
        seen[name] = np.bincount(shown, minlength=10) / len(shown)
    np.testing.assert_allclose(seen["balanced"], 0.1, atol=0.01)
    present = np.bincount(labels, minlength=10) / len(labels)  # from 3 to 9 of 50
    np.testing.assert_allclose(seen["shuffled"], present, atol=0.01)
    other = loop.train(tiny.config(data__order="balanced"), tmp_path)
    assert any((a != b).any() for a, b in zip(*map(jax.tree.leaves, (other, finished[2]))))


# Ways of computing the same


def test_several_steps_a_call_are_the_same_run(finished, tmp_path):
    """As on every accelerator: calls of two steps, and a single one where an event is due."""
    calls = {"train__steps_per_call": 2, "log__every": 6, "log__eval_every": 6}
    calls |= {"log__sample_every": 6, "log__checkpoint_every": 5}
    state = loop.train(tiny.config(**calls), tmp_path)
    for a, b in zip(*map(jax.tree.leaves, (state.params, finished[2].params))):
        np.testing.assert_allclose(a, b, atol=2e-5)
    lines = {line["step"]: line for line in logs.read(tmp_path)}
    assert list(lines) == [5, 6]
    one_by_one = [line for line in logs.read(finished[1]) if line["step"] == 6][0]
    assert lines[6]["test_mse"] == pytest.approx(one_by_one["test_mse"], rel=1e-4)


@pytest.fixture(scope="module")
def logged(finished_unet):
    """Losses of the six steps of a whole run, as its log has them: means since the line before."""
    lines = logs.read(finished_unet[1])
    assert [line["step"] for line in lines] == [2, 3, 4, 6]
    return [line["loss"] for line in lines]


def as_logged(losses):
    """Those of single steps, in the same way."""
    return [np.mean(losses[a:b]) for a, b in ((0, 2), (2, 3), (3, 4), (4, 6))]


@pytest.mark.usefixtures("whole_network")
def test_bfloat16_trains_like_float32_with_a_state_of_float32(logged):
    one = jax.devices()[:1]
    config = tiny.config(model__dtype="bfloat16", augment__ops=tiny.MOVES)
    state, losses, _ = tiny.run_steps(config, 6, one)
    assert {a.dtype for a in jax.tree.leaves(state.params)} == {jnp.dtype("float32")}
    np.testing.assert_allclose(as_logged(losses), logged, rtol=0.02)  # the draws are the same
    assert abs(losses[3] / logged[2] - 1) > 1e-6  # a single step: not float32


_LOSSES = """
import jax
from tests import tiny

print(tiny.run_steps(tiny.config(augment__ops=tiny.MOVES), 6, jax.devices()[:1])[1])
"""


def test_xlas_normal_optimisation_computes_the_same(logged):
    """All other tests switch most of it off, and no user does."""
    env = os.environ | {"XLA_FLAGS": ""}
    command = [sys.executable, "-c", _LOSSES]
    done = subprocess.run(command, env=env, cwd=tiny.ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    losses = json.loads(done.stdout.splitlines()[-1])
    np.testing.assert_allclose(as_logged(losses), logged, rtol=1e-3)


# Fine-tuning


@pytest.mark.parametrize(
    ("method", "section", "theirs", "mine"),
    [
        ("ar", "augment", "rotate_int", "brightness"),
        ("scoreaug", "scoreaug", "brightness", "cutout"),
    ],
)
def test_a_network_that_was_told_of_other_operations_is_no_start(
    method, section, theirs, mine, finished, tmp_path, monkeypatch
):
    """Whose labels have the same length."""
    told = tiny.config(method, **{f"{section}__ops": (theirs,)})
    other = dataclasses.replace(load_run(finished[1]), config=told)
    monkeypatch.setattr(resume, "load_run", lambda *arguments, **options: other)
    own = tiny.config(method, **{f"{section}__ops": (mine,)}, init__workdir=str(finished[1]))
    message = rf"told of \('{theirs}',\) by its labels.*config\.{section}\.ops.*make them equal"
    with pytest.raises(UserError, match=message):
        loop.train(own, tmp_path)


@pytest.mark.parametrize("use_ema", [True, False])
def test_fine_tuning_starts_from_another_run_with_a_fresh_optimiser(use_ema, finished, tmp_path):
    _, folder, whole = finished
    options = {"init__workdir": str(folder), "init__use_ema": use_ema, "train__total_steps": 1}
    tuned = loop.train(tiny.config(**options), tmp_path)
    source = whole.ema_params if use_ema else whole.params
    tiny.assert_trees_equal(tuned.params, source)  # the first step of a warm-up has rate 0
    assert int(tuned.step) == 1


def test_fine_tuning_refuses_another_network(finished, tmp_path):
    _, folder, _ = finished
    config = tiny.config(init__workdir=str(folder), model__channels=16)
    fields = r"another network \(config.model.channels 8 there, 16 here\): "
    with pytest.raises(UserError, match=fields + r".*\(.*\) there and .*here") as e:
        loop.train(config, tmp_path / "own")
    assert "\n" not in str(e.value)
    assert not list(tmp_path.iterdir())  # a run that never began leaves no folder
    with pytest.raises(UserError, match="cannot be written"):
        loop.train(tiny.config(), tmp_path / ("a" * 300))
    with pytest.raises(UserError, match="another network"):
        describe(config)


def test_describing_says_what_a_run_begins_with_or_refuses_it(finished):
    _, folder, _ = finished
    text = describe(tiny.config(init__workdir=str(folder)))
    assert f"weights: those of {folder}, checkpoint latest" in text
    with pytest.raises(UserError, match="holds no checkpoint '7'"):
        describe(tiny.config(init__workdir=str(folder), init__checkpoint="7"))
    with pytest.raises(UserError, match="config.init.workdir=/nowhere: /nowhere holds no run"):
        describe(tiny.config(init__workdir="/nowhere"))


def test_describing_a_run_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = "\n".join(describe(tiny.config(train__batch_size=64)))
    assert "train.batch_size = 64" in text
    assert "GiB a device" in text and "Total" in text
    assert "advice:" in text and "64" in text.partition("advice:")[2]  # 50 images, batches of 64
    assert not list(tmp_path.iterdir())


def test_fine_tuning_between_methods_and_formulations(finished):
    """A network that is told of augmentation begins as one that was not, and the other way."""
    folder = finished[1]
    plain = tada_jax.load_run(folder).ema_params
    config = tiny.config("ar", init__workdir=str(folder))
    like = tiny.params(build.parts(config, (8, 8, 1)))
    found = resume.params_of_another_run(config, like)
    assert not found["params"]["condition_in"]["kernel"].any()
    tiny.assert_trees_equal(unet.with_condition(found, None), plain)
    tiny.assert_trees_equal(unet.with_condition(found, plain), plain)
    for fields, message in (
        ({"schedule__name": "flow"}, "schedule.name='cosine'.*'flow'"),
        ({"diffusion__parameterisation": "v"}, "parameterisation='eps'.*'v'"),
    ):
        with pytest.raises(UserError, match=message):
            resume.params_of_another_run(tiny.config(init__workdir=str(folder), **fields), like)
    linear = tiny.config("ar", init__workdir=str(folder), schedule__name="linear")
    tiny.assert_trees_equal(resume.params_of_another_run(linear, like), found)
