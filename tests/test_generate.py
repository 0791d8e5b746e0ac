"""Samples from a run: arrays and files."""

import shutil

import jax
import numpy as np
import pytest
from PIL import Image

from tada_jax import backend, build, generate, loop, report
from tada_jax.errors import UserError
from tests import tiny


def test_sampling_leaves_a_save_in_progress_alone(finished):
    _, workdir, _ = finished
    saving = workdir / "checkpoints" / "99.orbax-checkpoint-tmp"
    saving.mkdir()
    generate.sample(tiny.config(sample__count=2), workdir)
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
    folder, grid, npz = generate.sample(tiny.config(**options), workdir)
    images = np.load(npz)["arr_0"]
    assert images.shape == (5, 8, 8, 1) and images.dtype == np.uint8
    assert Image.open(grid).size[0] > 90
    singles = [np.asarray(Image.open(folder / f"{i:06d}.png")) for i in range(5)]
    np.testing.assert_array_equal(np.stack(singles), images[..., 0])
    # Image i depends on its seed and number only: not on how many are drawn, or in what batches.
    # What is there already is not drawn again.
    (folder / "000002.png").unlink()
    kept = (folder / "000001.png").stat().st_mtime_ns
    more = {"sample__count": 20, "sample__seed": 3, "sample__batch_size": 8}
    _, _, npz = generate.sample(tiny.config(**more), workdir)
    more = np.load(npz)["arr_0"].astype(int)
    assert len(more) == 20
    assert np.abs(more[:5] - images).max() <= 1
    assert np.abs(more[5:10] - images).max() > 1
    assert (folder / "000001.png").stat().st_mtime_ns == kept


def test_an_interrupted_call_continues(copied, monkeypatch):
    _, workdir = copied
    config = tiny.config(sample__count=24, sample__batch_size=8)
    real, drawn = report.save_png, []

    def save_png(path, image):
        if len(drawn) == 11:
            raise KeyboardInterrupt
        drawn.append(path)
        real(path, image)

    monkeypatch.setattr(report, "save_png", save_png)
    with pytest.raises(KeyboardInterrupt):
        generate.sample(config, workdir)
    monkeypatch.undo()
    times = {path: path.stat().st_mtime_ns for path in drawn}
    _, _, npz = generate.sample(config, workdir)
    assert {path: path.stat().st_mtime_ns for path in drawn} == times
    assert np.load(npz)["arr_0"].shape == (24, 8, 8, 1)


def test_samples_of_other_parameters_are_drawn_again(copied):
    _, workdir = copied
    config = tiny.config(sample__count=6)
    folder, _, npz = generate.sample(config, workdir)
    first = np.load(npz)["arr_0"]
    (folder / "000001.png").write_bytes((folder / "000001.png").read_bytes()[:-20])  # torn
    _, _, npz = generate.sample(config, workdir)
    np.testing.assert_array_equal(np.load(npz)["arr_0"], first)
    # The same folder, step and seed, but another run.
    shutil.rmtree(workdir / "checkpoints")
    other = tiny.config(method="none", sample__count=6, seed=5)
    loop.train(other, workdir)
    _, _, npz = generate.sample(other, workdir)
    assert (np.load(npz)["arr_0"] != first).any((1, 2, 3)).all()


def test_a_sample_does_not_depend_on_the_device_count(finished):
    config, _, state = finished
    parts = build.parts(config, (8, 8, 1))
    params = jax.device_get(state.ema_params)
    drawn = []
    for devices in (jax.devices()[:1], jax.devices()[:8]):
        mesh = backend.data_mesh(8, devices)
        sample = generate.make_sampler(parts, mesh, batch_size=5)
        placed = jax.device_put(params, backend.replicated(mesh))
        drawn.append(sample(placed, range(9), seed=1).astype(int))
    assert drawn[0].shape == drawn[1].shape == (9, 8, 8, 1)
    assert np.abs(drawn[0] - drawn[1]).max() <= 1


def test_sampling_needs_a_run(tmp_path):
    with pytest.raises(UserError, match="no run"):
        generate.sample(tiny.config(), tmp_path)
