"""A run in one call, as somebody else's program uses it."""

import shutil

import numpy as np
import pytest

import tada_jax
from tests import tiny


def test_a_run_is_loaded_from_its_folder_alone(finished):
    config, workdir, state = finished
    run = tada_jax.load_run(workdir)
    assert run.step == 6 and run.num_classes == 10
    assert run.config.to_dict() == config.to_dict()
    tiny.assert_trees_equal(run.params, state.params)
    tiny.assert_trees_equal(run.ema_params, state.ema_params)
    assert tada_jax.load_run(workdir, checkpoint="3").step == 3
    assert tada_jax.load_run(str(workdir), checkpoint="best").step in (3, 6)


def test_samples_of_a_run_with_other_options(finished):
    _, workdir, _ = finished
    run = tada_jax.load_run(workdir)
    images = run.sample(3, seed=1)
    assert images.shape == (3, 8, 8, 1) and images.dtype == np.uint8
    np.testing.assert_array_equal(images, run.sample(3, seed=1))
    for other in ({"sampler": "ddpm"}, {"steps": 7}, {"use_ema": False}, {"seed": 2}):
        assert (run.sample(3, **{"seed": 1} | other) != images).any(), other
    for wrong, message in (
        ({"stepz": 3}, "stepz"),
        ({"steps": 31}, "cannot keep 31"),
        ({"sampler": "euler"}, "sample.sampler"),
        ({"steps": "many"}, "steps"),
        ({"seed": -1}, "seed"),
        ({"seed": 1.5}, "seed=1.5 must be a whole number"),
        ({"count": 2.5}, "count=2.5 must be a whole number"),
        ({"count": 0}, "count=0 must be positive"),
        ({"checkpoint": "best"}, r"load_run\(.*checkpoint='best'\) takes another"),
        ({"ema_width": 0.1}, "has no snapshots for a post-hoc EMA"),  # asked for, and not ignored
    ):
        with pytest.raises(tada_jax.UserError, match=message):
            run.sample(**{"count": 3} | wrong)


def test_damaged_checkpoints_are_passed_over_or_refused(finished, tmp_path):
    _, workdir, _ = finished
    shutil.copytree(workdir, tmp_path / "run")
    tiny.damage(tmp_path / "run" / "checkpoints" / "6")
    said = []
    assert tada_jax.load_run(tmp_path / "run", warn=said.append).step == 3
    assert len(said) == 1 and "step 6 is damaged" in said[0]
    with pytest.raises(tada_jax.UserError, match="step 6"):
        tada_jax.load_run(tmp_path / "run", checkpoint="6")
    tiny.damage(tmp_path / "run" / "checkpoints" / "3")
    with pytest.raises(tada_jax.UserError, match="can be read"):
        tada_jax.load_run(tmp_path / "run")
    assert (tmp_path / "run" / "checkpoints" / "6").exists()  # a reader moves nothing


@pytest.mark.parametrize(
    ("checkpoint", "message"),
    [("4", "latest, best or one of 6, 3"), ("newest", "holds no checkpoint 'newest'")],
)
def test_a_checkpoint_that_is_not_there(finished, checkpoint, message):
    _, workdir, _ = finished
    with pytest.raises(tada_jax.UserError, match=message):
        tada_jax.load_run(workdir, checkpoint=checkpoint)


def test_the_package_offers_what_it_says():
    assert {"train", "sample", "load_run", "describe"} <= set(dir(tada_jax))
    with pytest.raises(AttributeError, match="nonsense"):
        tada_jax.__getattr__("nonsense")
    assert callable(tada_jax.train)
