"""Whole runs: what they leave, and what is refused."""

import dataclasses
import errno
import json
import shutil
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from tada_jax import data
from tada_jax.metrics import classifier
from tada_jax.setup.plan import load_data
from tada_jax.system import backend, logs
from tada_jax.system.errors import UserError
from tada_jax.training import alarm, loop, workdir
from tada_jax.training import step as training_step
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


def test_resumed_equals_uninterrupted_bit_for_bit(finished_moves, tmp_path):
    config, folder, whole = finished_moves
    first = config.copy_and_resolve_references()
    first.train.total_steps = 4  # stops between two checkpoints' steps
    loop.train(first, tmp_path)
    resumed = loop.train(config.copy_and_resolve_references(), tmp_path)
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

    def loss_fn(params, rng, *args):
        terms = real(params, rng, *args)
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


def test_fewer_steps_than_are_done_are_said(finished, tmp_path, capsys):
    config, workdir, _ = finished
    shutil.copytree(workdir, tmp_path, dirs_exist_ok=True)
    fewer = config.copy_and_resolve_references()
    for total, end in ((6, "\n"), (4, ", of which config.train.total_steps=4 asks for fewer\n")):
        fewer.train.total_steps = total
        assert int(loop.train(fewer, tmp_path).step) == 6
        assert f"has already done its 6 steps{end}" in capsys.readouterr().err
