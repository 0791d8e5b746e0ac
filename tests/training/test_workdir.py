"""The folder of a run: where it may lie, and runs of versions before this one."""

import json
import pathlib
import zipfile

import numpy as np
import pytest

import tada_jax
from configs import base
from tada_jax.system.errors import UserError
from tada_jax.training import loop, workdir
from tests import tiny


@pytest.fixture
def earlier(tmp_path):
    """The folder of a run of three steps, saved by a version that numbered no configuration."""
    with zipfile.ZipFile(tiny.FILES / "run_of_version_0.zip") as archive:
        archive.extractall(tmp_path / "run")
    return tmp_path / "run"


def config_of(run):
    """What such a run was made from, by today's fields."""
    return tiny.config(
        train__total_steps=5,
        augment__ops=tiny.MOVES,
        tada__band="auto",
        tada__schedule="fitted",
        sensitivity__queries=16,
        sensitivity__copies=1,
        sensitivity__thresholds=(1e-4, 1e-4),
        log__eval_every=9,
        log__sample_every=9,
    )


def small_evaluation(config):
    """Of as few samples as can be, by an extractor that is not fitted."""
    config = config.copy_and_resolve_references()
    c = config.evaluate
    c.count, c.fit_steps, c.extractor = 50, 2, "pixels"
    return config


@pytest.mark.usefixtures("whole_network")
def test_a_run_of_an_earlier_version_goes_on_samples_and_is_evaluated(earlier, capsys):
    saved = json.loads((earlier / "config.json").read_text())
    del saved["train"]["deterministic"], saved["train"]["microbatch"]  # as if before those too
    (earlier / "config.json").write_text(json.dumps(saved))
    schedule = (earlier / "sensitivity.json").read_text()
    run = tada_jax.load_run(earlier, checkpoint="best")
    assert run.step == 3 and run.config.train.microbatch == 0
    shown = capsys.readouterr().err
    taken_as = (
        "ambient.noise='band', data.color='stored', data.labels='auto', data.pages='first', "
        "data.range='auto' and 16 more"
    )
    assert f"is of an earlier version: taken as {taken_as}" in shown
    assert run.sample(2).shape == (2, 8, 8, 1)
    measured = tada_jax.evaluate(small_evaluation(run.config), earlier)
    assert measured.protocol["step"] == 3 and np.isfinite(measured.numbers["fd/train"].value)
    state = loop.train(config_of(run), earlier)
    assert int(state.step) == 5
    assert (earlier / "sensitivity.json").read_text() == schedule  # its strength stays its own
    assert json.loads((earlier / "config.json").read_text())["version"] == workdir.VERSION
    again = tada_jax.load_run(earlier)
    assert again.step == 5
    w = np.asarray(again.parts.strength(np.array([-8.0, 0.0, 8.0])))
    assert w[1] < min(w[0], w[2])  # what band=auto found lies in the folder, and is honoured


def test_a_schedule_that_a_run_has_lost_is_named(earlier):
    (earlier / "sensitivity.json").unlink()
    with pytest.raises(UserError, match=r"sensitivity\.json.*is missing.*restore it"):
        tada_jax.load_run(earlier)


def test_every_field_is_saved_or_said_to_have_come_later():
    """A new field of base.py needs an entry in `workdir.ADDED`."""
    with zipfile.ZipFile(tiny.FILES / "run_of_version_0.zip") as archive:
        saved = workdir.flatten(json.loads(archive.read("config.json")))
    fields = workdir.flatten(json.loads(json.dumps(base.get_config().to_dict())))
    assert fields.keys() <= saved.keys() | workdir.ADDED.keys()
    assert workdir.ADDED.keys() <= fields.keys()


def test_a_configuration_of_a_later_version_is_refused(earlier):
    saved = json.loads((earlier / "config.json").read_text())
    (earlier / "config.json").write_text(json.dumps(saved | {"version": workdir.VERSION + 1}))
    with pytest.raises(UserError, match="take a newer one"):
        tada_jax.load_run(earlier)


def test_a_path_with_characters_of_patterns_keeps_its_checkpoints(finished, tmp_path):
    config, _, whole = finished
    path = tmp_path / "a*b?" / "run[1]"
    tiny.assert_trees_equal(loop.train(config, path), whole)
    run = tada_jax.load_run(path)
    assert run.step == 6
    tiny.assert_trees_equal(run.params, whole.params)


@pytest.mark.parametrize("address", ["gs://bucket/run", "s3://bucket/run"])
def test_an_address_is_no_folder(address, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for call in (lambda: loop.train(tiny.config(), address), lambda: tada_jax.load_run(address)):
        with pytest.raises(UserError, match="is an address.*name one"):
            call()
    assert not list(tmp_path.iterdir())


def test_without_a_home_folder_there_is_a_line(monkeypatch):
    def expanduser(path):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(pathlib.Path, "expanduser", expanduser)
    with pytest.raises(UserError, match="no home folder here: set HOME"):
        loop.train(tiny.config(), "~/run")


def test_the_folder_of_the_images_is_none_of_a_run(tmp_path):
    with pytest.raises(UserError, match="is the folder of the images"):
        loop.train(tiny.config(data__name="images", data__path=str(tmp_path)), tmp_path)


def test_the_versions_of_every_part_of_a_run_are_kept(tmp_path, monkeypatch):
    config = tiny.config()
    workdir.describe(config, tmp_path)
    workdir.describe(config, tmp_path, 3)
    first = (tmp_path / "versions.json").read_text()
    assert len(list(tmp_path.glob("versions*"))) == 1
    monkeypatch.setattr(workdir, "versions", lambda: {"jax": "0.0.1"})
    workdir.describe(config, tmp_path, 6)
    assert (tmp_path / "versions_until_step_0000006.json").read_text() == first
    assert json.loads((tmp_path / "versions.json").read_text()) == {"jax": "0.0.1"}


def test_a_run_from_before_ranges_goes_on_with_the_images_that_it_had(tmp_path, monkeypatch):
    monkeypatch.setenv("TADA_JAX_CACHE", str(tmp_path / "cache"))
    images = np.random.default_rng(0).integers(0, 4096, (60, 8, 8)).astype(np.uint16)
    np.save(tmp_path / "camera.npy", images)
    fields = {"data__name": "images", "data__path": str(tmp_path / "camera.npy")}
    fields |= {"log__best_metric": "test_mse"}
    full = tiny.config(**fields, data__range="full", train__total_steps=2)
    loop.train(full, tmp_path / "run")
    saved = json.loads((tmp_path / "run" / "config.json").read_text())
    del saved["data"]["range"]
    (tmp_path / "run" / "config.json").write_text(json.dumps(saved))
    with pytest.raises(UserError, match="set data.range as it was .full"):
        loop.train(tiny.config(**fields, train__total_steps=3), tmp_path / "run")
    whole = tiny.config(**fields, data__range="full", train__total_steps=3)
    assert int(loop.train(whole, tmp_path / "run").step) == 3
