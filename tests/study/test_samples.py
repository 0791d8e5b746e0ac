"""Samples from a run: arrays and files."""

import copy
import dataclasses
import functools
import json
import shutil
import sys
import types

import jax
import numpy as np
import pytest
from absl import flags
from ml_collections import config_flags
from PIL import Image

import tada_jax
from tada_jax import data
from tada_jax.data import classes
from tada_jax.model.sampler import make_sampler
from tada_jax.setup import build
from tada_jax.study import samples as sample_files
from tada_jax.system import backend, figures, memo
from tada_jax.system.errors import UserError
from tada_jax.training import loop, resume
from tada_jax.training import step as training_step
from tests import tiny


def test_sampling_leaves_a_save_in_progress_alone(finished):
    _, workdir, _ = finished
    saving = workdir / "checkpoints" / "99.orbax-checkpoint-tmp"
    saving.mkdir()
    sample_files.sample(tiny.config(sample__count=2), workdir)
    assert saving.exists()
    saving.rmdir()


@pytest.fixture
def copied(finished, tmp_path):
    """A copy of the finished run, to be written to."""
    config, workdir, _ = finished
    shutil.copytree(workdir, tmp_path / "run")
    return config, tmp_path / "run"


def test_sampling_writes_single_pictures_a_grid_and_an_npz(copied):
    config, workdir = copied
    options = {"sample__count": 5, "sample__seed": 3}
    folder, grid, npz = sample_files.sample(tiny.config(**options), workdir)
    images = np.load(npz)["arr_0"]
    assert images.shape == (5, 8, 8, 1) and images.dtype == np.uint8
    assert Image.open(grid).size[0] > 90
    singles = [np.asarray(Image.open(folder / f"{i:06d}.png")) for i in range(5)]
    np.testing.assert_array_equal(np.stack(singles), images[..., 0])
    # Image i depends on its seed and number only: not on how many are drawn, or in what batches.
    # What is there already is not drawn again.
    (folder / "000002.png").unlink()
    kept = (folder / "000001.png").stat().st_mtime_ns
    more = {"sample__count": 20, "sample__seed": 3}
    _, _, npz = sample_files.sample(tiny.config(**more), workdir)
    more = np.load(npz)["arr_0"].astype(int)
    assert len(more) == 20
    assert np.abs(more[:5] - images).max() <= 1
    assert np.abs(more[5:10] - images).max() > 1
    assert (folder / "000001.png").stat().st_mtime_ns == kept


def test_an_interrupted_call_continues(copied, monkeypatch):
    _, workdir = copied
    config = tiny.config(sample__count=24)
    real, drawn = figures.save_png, []

    def save_png(path, image):
        if len(drawn) == 11:
            raise KeyboardInterrupt
        drawn.append(path)
        real(path, image)

    monkeypatch.setattr(figures, "save_png", save_png)
    with pytest.raises(KeyboardInterrupt):
        sample_files.sample(config, workdir)
    monkeypatch.undo()
    times = {path: path.stat().st_mtime_ns for path in drawn}
    _, _, npz = sample_files.sample(config, workdir)
    assert {path: path.stat().st_mtime_ns for path in drawn} == times
    assert np.load(npz)["arr_0"].shape == (24, 8, 8, 1)


def test_samples_of_other_parameters_are_drawn_again(copied):
    _, workdir = copied
    config = tiny.config(sample__count=6)
    folder, _, npz = sample_files.sample(config, workdir)
    first = np.load(npz)["arr_0"]
    (folder / "000001.png").write_bytes((folder / "000001.png").read_bytes()[:-20])  # torn
    _, _, npz = sample_files.sample(config, workdir)
    np.testing.assert_array_equal(np.load(npz)["arr_0"], first)
    # The same folder, step and seed, but another run.
    shutil.rmtree(workdir / "checkpoints")
    other = tiny.config(sample__count=6, seed=5)
    loop.train(other, workdir)
    _, _, npz = sample_files.sample(other, workdir)
    assert (np.load(npz)["arr_0"] != first).any((1, 2, 3)).all()


def test_a_sample_does_not_depend_on_the_device_count(finished):
    config, _, state = finished
    parts = build.parts(config, (8, 8, 1))
    params = jax.device_get(state.ema_params)
    drawn = []
    for devices in (jax.devices()[:1], jax.devices()[:8]):
        mesh = backend.data_mesh(8, devices)
        sample = make_sampler(parts, mesh, batch_size=5)
        placed = jax.device_put(params, backend.replicated(mesh))
        drawn.append(sample(placed, range(9), seed=1).astype(int))
    assert drawn[0].shape == drawn[1].shape == (9, 8, 8, 1)
    assert np.abs(drawn[0] - drawn[1]).max() <= 1


def test_any_number_of_samples_is_drawn_by_one_program(finished):
    config, _, state = finished
    parts, traced = build.parts(config, (8, 8, 1)), []

    def apply(*args):
        traced.append(1)
        return parts.apply(*args)

    mesh = backend.data_mesh(2, jax.devices()[:2])
    sample = make_sampler(parts, mesh, batch_size=5, apply=apply)
    params = jax.device_put(jax.device_get(state.ema_params), backend.replicated(mesh))
    whole, once = sample(params, range(9), seed=1), len(traced)
    assert once
    for numbers in (range(1), range(6), range(7, 9)):
        np.testing.assert_array_equal(sample(params, numbers, seed=1), whole[list(numbers)])
    assert len(traced) == once


def test_sampling_needs_a_run(tmp_path):
    with pytest.raises(UserError, match="no run"):
        sample_files.sample(tiny.config(), tmp_path)


# Classes


@pytest.fixture(scope="module")
def of_classes(tmp_path_factory):
    """A conditional run on labels 1, 2, 3 and 10, the last without a training image: its workdir.

    The network is not trained in earnest: its parameters are random, so that classes differ.
    """
    folder = tmp_path_factory.mktemp("classes")
    images = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 1), np.uint8)
    labels = np.array([1, 2, 3] * 13 + [10])
    np.savez(folder / "set.npz", images=images, labels=labels)
    config = tiny.config(
        data__name="images",
        data__path=str(folder / "set.npz"),
        data__train_size=20,
        model__class_conditional=True,
        train__total_steps=2,
        log__eval_every=2,
        log__sample_every=2,
        log__checkpoint_every=2,
        log__best_metric="",
        sample__label="2",
    )
    memo.forget()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training_step, "init_state", with_random_parameters(training_step.init_state))
        loop.train(config, folder / "run")
    memo.forget()
    (folder / "set.npz").unlink()  # nothing below reads it again
    return config, folder / "run"


def with_random_parameters(init):
    def init_state(parts, seed, **options):
        state = init(parts, seed, **options)
        leaves, tree = jax.tree.flatten(state.params)
        keys = jax.random.split(jax.random.key(1), len(leaves))
        leaves = [a + 0.3 * jax.random.normal(k, a.shape) for a, k in zip(leaves, keys)]
        params = jax.tree.unflatten(tree, leaves)
        copy = jax.tree.map(lambda a: a + 0, params)
        return dataclasses.replace(state, params=params, ema_params=copy)

    return init_state


def test_a_run_keeps_its_classes(of_classes):
    _, workdir = of_classes
    kept = json.loads((workdir / "classes.json").read_text())
    assert [(one["number"], one["name"]) for one in kept] == list(enumerate(("1", "2", "3", "10")))
    assert sum(one["train"] for one in kept) == 20 and kept[3]["train"] == 0
    assert sum(one["held_out"] for one in kept) == 4
    text = (workdir / "data.txt").read_text()
    assert f"0: '1' ({kept[0]['train']}), 1: '2' ({kept[1]['train']}), " in text
    assert "3: '10' (0)" in text and "1 of 4 classes have no training image ('10')" in text


def test_a_class_is_drawn_by_its_name(of_classes, capsys):
    run = tada_jax.load_run(of_classes[1])
    assert run.config.sample.label == "2" and run.parts.label == 1
    by_turns = run.sample(4, label=None)
    assert "the 4 classes that are drawn by turns" in capsys.readouterr().err
    drawn = {name: run.sample(4, label=name) for name in (1, 2, "3")}
    np.testing.assert_array_equal(drawn[2], run.sample(4))  # as in training
    assert not capsys.readouterr().err
    drawn["10"] = run.sample(4, label=10)
    assert "no training image is of class 3: '10'" in capsys.readouterr().err
    for i, name in enumerate(drawn):
        np.testing.assert_array_equal(drawn[name][i], by_turns[i])
        for other in drawn.keys() - {name}:
            assert (drawn[other][i] != by_turns[i]).any()
    run.sample(3, label=None)  # which does not come to the last
    assert not capsys.readouterr().err
    for label in (0, 4, "cat"):
        with pytest.raises(UserError, match=f"label='{label}' is none.*'1', '2', '3', '10'$"):
            run.sample(1, label=label)


def labelled(config, label):
    config = copy.deepcopy(config)
    config.sample.label = label
    return config


def test_the_class_is_said_and_names_the_folder(of_classes, capsys):
    config, workdir = of_classes
    drawn = {}
    for label in ("2", 10):
        folder, _, npz = sample_files.sample(labelled(config, label), workdir)
        assert f"_class-{label}_" in folder.name
        drawn[str(label)] = np.load(npz)["arr_0"], capsys.readouterr().err
    assert "class 1: '2'" in drawn["2"][1] and "warning" not in drawn["2"][1]
    assert "class 3: '10'" in drawn["10"][1]
    assert "warning: no training image is of class 3: '10'" in drawn["10"][1]
    assert (drawn["2"][0] != drawn["10"][0]).any()
    run = tada_jax.load_run(workdir, config=labelled(config, 10))
    np.testing.assert_array_equal(drawn["10"][0], run.sample(8))
    np.testing.assert_array_equal(drawn["2"][0], run.sample(8, label="2"))  # in place of a number
    with pytest.raises(UserError, match="none of the 4 classes"):
        run.sample(1, label=2.5)


def test_names_of_classes_become_names_of_folders():
    names = ["a/b", "a_b", "..", "A b", "é", "x" * 300, "x" * 299 + "y", "\udcff", "%2f"]
    safe = [classes.Class(0, name).slug for name in names]
    assert len(set(safe)) == len(names)
    assert all("/" not in s and len(s) <= 60 and s.encode() for s in safe)


@pytest.fixture
def of_classes_copied(of_classes, tmp_path):
    shutil.copytree(of_classes[1], tmp_path / "run")
    return of_classes[0], tmp_path / "run"


def test_runs_from_before_classes_had_names_are_drawn_from(of_classes_copied, capsys):
    config, workdir = of_classes_copied
    (workdir / "classes.json").unlink()
    saved = json.loads((workdir / "config.json").read_text())
    saved["sample"]["label"] = 2
    (workdir / "config.json").write_text(json.dumps(saved))
    run = tada_jax.load_run(workdir)
    assert run.parts.label == 1
    np.testing.assert_array_equal(run.sample(2), run.sample(2, label="2"))
    run.sample(2, label=10)
    sample_files.sample(labelled(config, "10"), workdir)
    assert "warning" not in capsys.readouterr().err  # numbers of images are not known


def test_damaged_classes_are_a_line(of_classes_copied):
    config, workdir = of_classes_copied
    (workdir / "classes.json").write_text("[")
    with pytest.raises(UserError, match="classes.json is damaged.*delete it"):
        sample_files.sample(labelled(config, "2"), workdir)


def test_a_run_whose_classes_were_numbered_otherwise_is_refused_by_that_reason(
    tmp_path, monkeypatch
):
    for number, name in enumerate(("2", "10", "cat")):
        (tmp_path / "set" / name).mkdir(parents=True)
        for i in range(10):
            image = np.full((8, 8), 20 * i + number, np.uint8)
            Image.fromarray(image).save(tmp_path / "set" / name / f"{i}.png")
    load = functools.partial(data.load, "images", path=str(tmp_path / "set"))
    with monkeypatch.context() as patch:
        patch.setattr(classes, "natural", str)  # by letters
        before = load()
    assert before.class_names == ("10", "2", "cat")
    meta = {
        "image_digest": before.digest,
        "class_names": list(before.class_names),
        "num_images": len(before.train.images),
    }
    checkpoints = types.SimpleNamespace(meta=lambda step: meta, path=tmp_path / "run" / "here")
    resume._check_data(checkpoints, 0, types.SimpleNamespace(dataset=before))
    with pytest.raises(UserError) as caught:
        resume._check_data(checkpoints, 0, types.SimpleNamespace(dataset=load()))
    text = str(caught.value)
    assert "in the order '10', '2', 'cat', and are in natural order now, '2', '10', 'cat'" in text
    assert "--workdir" in text and "\n" not in text
    meta["class_names"] = ["10", "2", "dog"]  # which is another data set
    with pytest.raises(UserError, match="not the images"):
        resume._check_data(checkpoints, 0, types.SimpleNamespace(dataset=load()))


@pytest.mark.parametrize("text", ["2", "cat", "007", "1_0", "true", "1e3", "a cat"])
def test_labels_on_the_command_line_stay_what_was_written(text, monkeypatch):
    arguments = ["main.py", "--config=configs/digits_tada.py", f"--config.sample.label={text}"]
    monkeypatch.setattr(sys, "argv", arguments)
    monkeypatch.chdir(tiny.ROOT)
    values = flags.FlagValues()
    holder = config_flags.DEFINE_config_file("config", flag_values=values)
    values(arguments)
    assert holder.value.sample.label == text
