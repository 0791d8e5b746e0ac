"""Whole runs: what they leave, how they end, and how they go on."""

import dataclasses
import errno
import json
import os
import shutil
import signal
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import tada_jax
from tada_jax import data
from tada_jax.data import feed
from tada_jax.data.order import HostBatches
from tada_jax.metrics import classifier
from tada_jax.model import unet
from tada_jax.setup import build
from tada_jax.setup.plan import load_data, plan
from tada_jax.system import backend, figures, logs
from tada_jax.system.errors import UserError
from tada_jax.training import alarm, checkpoint, loop, observe, resume, workdir
from tada_jax.training import step as training_step
from tada_jax.training.describe import describe
from tada_jax.training.heldout import Evaluation
from tada_jax.training.run import load_run
from tests import tiny


def test_a_signal_while_small_networks_are_fitted_ends_that_at_once(tmp_path, monkeypatch):
    """The run is saved after the next step, as ever."""

    def fit(*arguments, progress, **options):
        signal.raise_signal(signal.SIGTERM)
        progress(20, 1000)
        raise AssertionError("the signal waited")

    monkeypatch.setattr(classifier, "fit", fit)
    state = loop.train(tiny.config(log__metrics_every=3), tmp_path)
    assert int(state.step) == load_run(tmp_path).step == 4
    assert not any("fd" in line for line in logs.read(tmp_path))


def test_a_run_leaves_pictures_numbers_and_checkpoints(finished):
    config, folder, state = finished
    assert int(state.step) == 6
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 3, 4, 6]
    assert all(np.isfinite(v) for line in lines for v in line.values() if not isinstance(v, dict))
    by_level = lines[-1]["test_mse_by_logsnr"]
    assert np.isfinite(list(by_level.values())).all() and len(by_level) > 5
    assert lines[-1]["train_mse_by_logsnr"].keys() == by_level.keys()
    assert {"loss", "mse", "vlb", "strength", "grad_norm", "train_mse", "test_mse"} <= set(
        lines[-1]
    )
    assert json.loads((folder / "config.json").read_text())["method"] == "tada"
    assert json.loads((folder / "versions.json").read_text())["jax"] == jax.__version__
    assert "training" in (folder / "data.txt").read_text()
    for name in (
        "strength.png",
        "real.png",
        "training.png",
        "noise_levels.png",
        "samples/step_0000006.png",
    ):
        with Image.open(folder / name) as image:
            assert min(image.size) > 50
    assert any((folder / "tensorboard").iterdir())
    assert sorted(p.name for p in (folder / "checkpoints").iterdir()) == ["3", "6"]


def test_resumed_equals_uninterrupted_bit_for_bit(finished, tmp_path):
    config, folder, whole = finished
    first = tiny.config(train__total_steps=4)  # stops between two checkpoints' steps
    loop.train(first, tmp_path)
    resumed = loop.train(tiny.config(), tmp_path)
    tiny.assert_trees_equal(resumed, whole)
    steps = [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").open()]
    assert steps == sorted(set(steps))
    a, b = (np.asarray(Image.open(p / "samples/step_0000006.png")) for p in (tmp_path, folder))
    np.testing.assert_array_equal(a, b)


def test_a_run_goes_on_with_another_number_of_devices(finished, tmp_path, monkeypatch):
    _, _, whole = finished
    loop.train(tiny.config(train__total_steps=3), tmp_path)
    real = backend.data_mesh

    def two(size, devices=None, **options):
        return real(size, jax.devices()[:2], **options)

    monkeypatch.setattr(backend, "data_mesh", two)
    resumed = loop.train(tiny.config(), tmp_path)
    assert len(jax.tree.leaves(resumed)[0].sharding.device_set) == 2
    for a, b in zip(jax.tree.leaves(resumed), jax.tree.leaves(whole)):
        np.testing.assert_allclose(a, b, atol=2e-4)


def test_events_happen_when_they_are_due_whatever_the_other_intervals(tmp_path):
    fields = {"log__every": 4, "log__eval_every": 3, "log__sample_every": 5}
    loop.train(tiny.config(train__total_steps=7, log__checkpoint_every=7, **fields), tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").open()]
    assert [line["step"] for line in lines if "test_mse" in line] == [3, 6, 7]
    assert {4, 7} <= {line["step"] for line in lines}
    pictures = sorted(p.stem for p in (tmp_path / "samples").iterdir())
    assert pictures == ["step_0000005", "step_0000007"]


def test_a_folder_in_which_nothing_was_trained_takes_another_configuration(tmp_path):
    bad = tiny.config(optimizer__learning_rate=1e30, optimizer__warmup_steps=0)
    with pytest.raises(UserError):
        loop.train(bad, tmp_path)
    assert int(loop.train(tiny.config(train__total_steps=1), tmp_path).step) == 1


def test_a_finished_run_is_left_alone(finished):
    config, folder, state = finished
    before = (folder / "metrics.jsonl").read_text()
    tiny.assert_trees_equal(loop.train(config, folder), state)
    assert (folder / "metrics.jsonl").read_text() == before


def test_another_configuration_is_refused_with_the_fields(finished):
    config, folder, _ = finished
    other = tiny.config(optimizer__learning_rate=0.5, log__every=1)
    with pytest.raises(UserError, match=r"optimizer.learning_rate 0.001 -> 0.5\)"):
        loop.train(other, folder)


def test_a_loss_that_is_not_finite_stops_the_run_with_advice(tmp_path):
    config = tiny.config(optimizer__learning_rate=1e30, optimizer__warmup_steps=0)
    with pytest.raises(UserError, match="not finite at step.*learning_rate"):
        loop.train(config, tmp_path)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"method": "mixup"}, "method='mixup'"),
        ({"train__batch_size": 0}, "train.batch_size=0"),
        ({"train__ema_decay": 1.0}, "ema_decay"),
        ({"augment__p": 1.5}, "augment.p=1.5"),
        ({"augment__ops": ("zoom",)}, "config.augment.*zoom"),
        ({"tada__r_fine": -9.0}, "config.tada.*r_rough"),
        ({"tada__kappa": "big"}, "tada.kappa"),
        ({"schedule__name": "sigmoid"}, "config.schedule.*sigmoid"),
        ({"sample__steps": 31}, "config.sample: cannot keep 31"),
        ({"sample__eta": 2.0}, "sample.eta"),
        ({"model__channel_mult": (1, 0.3)}, "channel_mult"),
        ({"data__test_fraction": 0.9999}, "which has 10 training images"),
        ({"diffusion__vlb_weight": -1.0}, "vlb_weight"),
        ({"sample__sampler": "euler"}, "sample.sampler"),
        ({"model__channel_mult": (1, 1, 1, 1, 1)}, "config.model.*multiples of 16"),
        ({"model__channel_mult": ()}, "channel_mult"),
        ({"model__norm_groups": 3}, "norm_groups"),
        ({"optimizer__learning_rate": 0.0}, "learning_rate"),
        ({"diffusion__weighting": "p3"}, "weighting"),
        ({"data__name": "imagenet"}, "imagenet"),
        ({"data__train_size": 10**6}, "train_size"),
    ],
)
def test_refuses_in_one_line_that_names_the_field(fields, message, tmp_path):
    with pytest.raises(UserError, match=message) as e:
        loop.train(tiny.config(**fields), tmp_path / "run")
    assert "\n" not in str(e.value)
    assert not (tmp_path / "run").exists()


def test_single_bad_steps_are_skipped_however_often_is_logged(tmp_path, monkeypatch):
    real = training_step.loss_fn

    def loss_fn(params, rng, x0, labels, parts):
        terms = real(params, rng, x0, labels, parts)
        bad = jax.random.uniform(rng) < 0.4  # by the step's key: some steps are bad, some good
        return terms | {"loss": jnp.where(bad, jnp.nan, terms["loss"])}

    monkeypatch.setattr(training_step, "loss_fn", loss_fn)
    config = tiny.config(train__nonfinite="skip", log__every=1)
    state = loop.train(config, tmp_path)
    lines = logs.read(tmp_path)
    assert int(state.step) == 6 and [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert {"nonfinite" in line for line in lines} == {True, False}
    assert all("loss" in line or "nonfinite" in line for line in lines)
    monkeypatch.setattr(alarm, "MOST_SKIPPED", 1)
    with pytest.raises(UserError, match="not finite"):
        loop.train(config, tmp_path / "other")


def test_other_images_are_refused(finished, monkeypatch):
    config, folder, _ = finished
    real = load_data(config)
    changed = real.train.images.copy()
    changed[3, 0, 0] ^= 1
    other = dataclasses.replace(real, train=data.Split(changed, real.train.labels))
    relabelled = dataclasses.replace(
        real, train=data.Split(real.train.images, real.train.labels + 1)
    )
    for changed in (other, relabelled):
        monkeypatch.setattr(
            "tada_jax.setup.plan.load_data", lambda config, changed=changed: changed
        )
        with pytest.raises(UserError, match="not the images.*50 of them.*--workdir"):
            loop.train(config, folder)


# Interruptions


def test_a_disk_without_locks_is_no_folder_in_use(tmp_path, monkeypatch, capsys):
    def flock(file, how):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", flock)
    with workdir.occupied(tiny.config(), tmp_path):
        pass
    assert "has no locks" in capsys.readouterr().err


def test_too_little_memory_on_the_device_is_one_line(tmp_path, monkeypatch):
    def make_steps(*arguments):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1 bytes")

    monkeypatch.setattr(training_step, "make_steps", make_steps)
    with pytest.raises(UserError, match="too little memory.*batch_size"):
        loop.train(tiny.config(), tmp_path)


def interrupting(monkeypatch, at, number):
    """Sends this process a signal when the line of step `at` is logged."""
    real = logs.Log.write

    def write(self, step, scalars):
        real(self, step, scalars)
        if step == at:
            signal.raise_signal(number)

    monkeypatch.setattr(logs.Log, "write", write)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1"])
def test_a_signal_saves_and_the_same_command_continues(name, finished, tmp_path, monkeypatch):
    config, folder, whole = finished
    number = getattr(signal, name)
    interrupting(monkeypatch, 4, number)
    before = signal.signal(number, signal.default_int_handler)  # ignored in background jobs
    try:
        stopped = loop.train(config, tmp_path)
        assert int(stopped.step) == 5  # the step after the one in which it came
        assert signal.getsignal(number) == signal.default_int_handler
    finally:
        signal.signal(number, before)
    monkeypatch.undo()
    tiny.assert_trees_equal(loop.train(config, tmp_path), whole)
    steps = [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").open()]
    assert steps == [2, 3, 4, 5, 6]


def test_a_damaged_checkpoint_is_moved_away_and_the_one_before_it_taken(finished, tmp_path):
    config, folder, whole = finished
    shutil.copytree(folder, tmp_path / "run")

    def flip(content):
        middle = len(content) // 2
        return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]

    tiny.damage(tmp_path / "run" / "checkpoints" / "6", flip)
    tiny.assert_trees_equal(loop.train(config, tmp_path / "run"), whole)
    assert (tmp_path / "run" / "damaged" / "6").is_dir()
    assert (tmp_path / "run" / "checkpoints" / "6").is_dir()  # saved anew


def test_if_every_checkpoint_is_damaged_nothing_is_thrown_away(finished, tmp_path):
    config, folder, _ = finished
    shutil.copytree(folder, tmp_path / "run")
    for step in ("3", "6"):
        tiny.damage(tmp_path / "run" / "checkpoints" / step)
    with pytest.raises(UserError, match="no checkpoint.*can be read") as e:
        loop.train(config, tmp_path / "run")
    assert "\n" not in str(e.value)
    assert sorted(p.name for p in (tmp_path / "run" / "checkpoints").iterdir()) == ["3", "6"]


def test_a_torn_last_line_and_an_unfinished_save_do_no_harm(finished, tmp_path):
    config, folder, whole = finished
    loop.train(tiny.config(train__total_steps=3), tmp_path)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')
    saving = tmp_path / "checkpoints" / "4.orbax-checkpoint-tmp"
    saving.mkdir()
    (saving / "state").write_text("half")
    tiny.assert_trees_equal(loop.train(config, tmp_path), whole)
    steps = [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").open()]
    assert steps == [2, 3, 4, 6]


def test_a_folder_belongs_to_one_process(finished, tmp_path):
    config, _, _ = finished
    with workdir.occupied(config, tmp_path):
        with pytest.raises(UserError, match=rf"in use by process {os.getpid()} on"):
            loop.train(config, tmp_path)
    assert int(loop.train(tiny.config(train__total_steps=1), tmp_path).step) == 1


@pytest.mark.parametrize("call", ["fingerprints", "write", "save_png"])
def test_a_full_disk_is_one_line_and_the_run_goes_on_later(call, finished, tmp_path, monkeypatch):
    config, _, whole = finished
    module = {"fingerprints": checkpoint, "write": logs.Log, "save_png": figures}[call]
    real, calls = getattr(module, call), []

    def full(*args):
        calls.append(call)
        if len(calls) > 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(*args)

    monkeypatch.setattr(module, call, full)
    with pytest.raises(UserError, match="disk is full.*saved.*same command") as e:
        loop.train(config, tmp_path)
    assert "\n" not in str(e.value)
    monkeypatch.undo()
    tiny.assert_trees_equal(loop.train(config, tmp_path), whole)


def test_the_best_checkpoint_outlives_the_latest_ones(tmp_path, monkeypatch):
    scores = iter([3.0, 1.0, 2.0, 4.0, 5.0])

    class Fake(Evaluation):
        mean = property(lambda self: self.mse)

        def by_logsnr(self):
            return {0.0: 1.0}

    def make_evaluation(*_, **__):
        def evaluate(*_):
            return Fake(next(scores), None, None)

        evaluate.examples = 16
        return evaluate

    monkeypatch.setattr(observe, "make_evaluation", make_evaluation)
    config = tiny.config(
        train__total_steps=5,
        log__checkpoint_every=1,
        log__eval_every=10,
        log__best_metric="train_mse",
        data__test_fraction=0.0,
        log__keep_checkpoints=1,
    )
    loop.train(config, tmp_path)
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["2", "5"]
    assert load_run(tmp_path, checkpoint="best").step == 2


# Where the images lie, and in which order they come


def test_images_on_disk_are_trained_on_in_the_same_order(finished, tmp_path):
    _, _, whole = finished
    fed = loop.train(tiny.config(data__device_gib=0.0), tmp_path / "fed")
    tiny.assert_trees_equal(fed, whole)
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


def test_bfloat16_trains_like_float32_with_a_state_of_float32(finished, tmp_path):
    state = loop.train(tiny.config(model__dtype="bfloat16"), tmp_path)
    assert {a.dtype for a in jax.tree.leaves(state.params)} == {jnp.dtype("float32")}
    short, whole = (logs.read(folder) for folder in (tmp_path, finished[1]))
    for a, b in zip(short, whole):
        assert a["loss"] == pytest.approx(b["loss"], rel=0.02)
        assert a["strength"] == pytest.approx(b["strength"])  # the draws are the same
    assert short[-1]["loss"] != whole[-1]["loss"]


_LOSSES = """
import pathlib, sys
from tada_jax.system import logs
from tada_jax.training import loop
from tests import tiny

loop.train(tiny.config(), pathlib.Path(sys.argv[1]))
print([line["loss"] for line in logs.read(sys.argv[1])])
"""


def test_xlas_normal_optimisation_computes_the_same(finished, tmp_path):
    """All other tests switch most of it off, and no user does."""
    env = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    command = [sys.executable, "-c", _LOSSES, str(tmp_path / "run")]
    root = tiny.ROOT
    done = subprocess.run(command, env=env, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    losses = [line["loss"] for line in logs.read(finished[1])]
    np.testing.assert_allclose(json.loads(done.stdout.splitlines()[-1]), losses, rtol=1e-3)


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
    tuned = loop.train(tiny.config(optimizer__warmup_steps=5, **options), tmp_path)
    source = whole.ema_params if use_ema else whole.params
    tiny.assert_trees_equal(tuned.params, source)  # the first step of a warm-up has rate 0
    assert int(tuned.step) == 1


def test_fine_tuning_refuses_another_network(finished, tmp_path):
    _, folder, _ = finished
    config = tiny.config(init__workdir=str(folder), model__channels=16)
    with pytest.raises(UserError, match=r"another network: .*\(.*\) there and .*here") as e:
        loop.train(config, tmp_path)
    assert "\n" not in str(e.value)


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
    like = build.parts(config, (8, 8, 1)).init_params(jax.random.key(0))
    found = resume._params_of_another_run(config, like)
    assert not found["params"]["condition_in"]["kernel"].any()
    tiny.assert_trees_equal(unet.with_condition(found, None), plain)
    tiny.assert_trees_equal(unet.with_condition(found, plain), plain)
    for fields, message in (
        ({"schedule__name": "flow"}, "schedule.name='cosine'.*'flow'"),
        ({"diffusion__parameterisation": "v"}, "parameterisation='eps'.*'v'"),
    ):
        with pytest.raises(UserError, match=message):
            resume._params_of_another_run(tiny.config(init__workdir=str(folder), **fields), like)
    linear = tiny.config("ar", init__workdir=str(folder), schedule__name="linear")
    tiny.assert_trees_equal(resume._params_of_another_run(linear, like), found)
