"""What is saved, found to be damaged, and left alone."""

import errno
import re

import jax
import jax.numpy as jnp
import pytest

from tada_jax import checkpoint
from tada_jax.checkpoint import Checkpoints, Damaged, restore_one
from tada_jax.errors import UserError

STATE = {"a": jnp.arange(5.0), "b": jnp.ones((2, 3))}
WHOLE = jax.sharding.SingleDeviceSharding(jax.devices()[0])


def saved(folder, metrics, metric="fd", first=1):
    """Checkpoints of steps first, first + 1, ... with these metrics; two of them are kept."""
    checkpoints = Checkpoints(folder, keep=2, metric=metric)
    for step, value in enumerate(metrics, first):
        checkpoints.save(step, STATE, {"note": "mine"}, value)
        checkpoints.wait()
    return checkpoints


def test_another_metric_does_not_compare_with_the_one_before(tmp_path):
    saved(tmp_path, [0.03, 0.02, 0.04], metric="test_mse").close()
    again = saved(tmp_path, [50.0, 20.0, 40.0, 45.0], metric="fd", first=4)
    assert again.best_step() == 5
    assert again.steps() == [7, 6, 5]
    again.close()
    other = Checkpoints(tmp_path, metric="leak", read_only=True)
    assert other.best_step() is None
    other.close()


def test_a_changed_description_is_damage(tmp_path):
    checkpoints = saved(tmp_path, [1.0, 2.0])
    assert checkpoints.meta(2) == {"note": "mine"}
    (file,) = (tmp_path / "checkpoints" / "2" / "meta").glob("metadata")
    file.write_text(file.read_text().replace("mine", "mind"))
    with pytest.raises(Damaged, match="description"):
        checkpoints.meta(2)
    step, _, damaged = restore_one(checkpoints, "latest", STATE, WHOLE)
    assert step == 1 and damaged.keys() == {2}
    checkpoints.close()


@pytest.mark.parametrize(
    "error", [OSError(errno.EMFILE, "Too many open files"), ValueError("RESOURCE_EXHAUSTED: gpu")]
)
def test_an_error_that_passes_is_not_damage(error, tmp_path, monkeypatch):
    checkpoints = saved(tmp_path, [1.0])

    def fails(tree):
        raise error

    real = checkpoints._manager.restore
    monkeypatch.setattr(checkpoints._manager, "restore", lambda *a, **k: fails(a))
    with pytest.raises(UserError, match="cannot be read now"):
        restore_one(checkpoints, "latest", STATE, WHOLE)
    monkeypatch.setattr(checkpoints._manager, "restore", real)
    assert restore_one(checkpoints, "latest", STATE, WHOLE)[0] == 1
    checkpoints.close()


def test_what_is_moved_aside_never_replaces_what_was_moved_before(tmp_path):
    places = []
    for content in ("first", "second", "third"):
        folder = tmp_path / "ema"
        folder.mkdir()
        (folder / "file").write_text(content)
        places.append(checkpoint.move_aside(folder))
    assert [(p / "file").read_text() for p in places] == ["first", "second", "third"]
    assert re.match("ema(-again)*$", places[-1].name)
