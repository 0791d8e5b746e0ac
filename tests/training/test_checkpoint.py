"""What is saved, found to be damaged, and left alone."""

import errno
import logging
import os
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tada_jax.system.errors import UserError
from tada_jax.training import damage, fingerprints
from tada_jax.training.checkpoint import Checkpoints
from tada_jax.training.damage import Damaged
from tada_jax.training.restore import restore_one
from tests import tiny

STATE = {"a": jnp.arange(5.0), "b": jnp.ones((2, 3))}
WHOLE = jax.sharding.SingleDeviceSharding(jax.devices()[0])


def saved(folder, metrics, metric="fd", first=1):
    """Checkpoints of steps first, first + 1, ... with these metrics; two of them are kept."""
    checkpoints = Checkpoints(folder, keep=2, metric=metric)
    for step, value in enumerate(metrics, first):
        checkpoints.save(step, STATE, {"note": "mine"}, value)
        checkpoints.wait()
    return checkpoints


@pytest.mark.parametrize("name", ["run[1]", "a*b", "who?", "back\\slash", "plain"])
def test_whatever_the_folder_is_called_the_arrays_are_there(name, tmp_path):
    saved(tmp_path / name, [1.0, 2.0]).close()
    again = Checkpoints(tmp_path / name, read_only=True)
    step, state, damaged = restore_one(again, "latest", STATE, WHOLE)
    assert step == 2 and not damaged
    tiny.assert_trees_equal(state, STATE)
    again.close()


def test_another_metric_does_not_compare_with_the_one_before(tmp_path):
    saved(tmp_path, [0.03, 0.02, 0.04], metric="test_mse").close()
    again = saved(tmp_path, [50.0, 20.0, 40.0, 45.0], metric="fd", first=4)
    assert again.best_step() == 5
    assert again.steps() == [7, 6, 5, 2]  # the best of before is not lost
    again.close()
    other = Checkpoints(tmp_path, metric="leak", read_only=True)
    assert other.best_step() is None
    with pytest.raises(UserError, match="by 'leak', only by 'fd' or 'test_mse': give that as conf"):
        restore_one(other, "best", STATE, WHOLE)
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
        places.append(damage.move_aside(folder))
    assert [(p / "file").read_text() for p in places] == ["first", "second", "third"]
    assert re.match("ema(-again)*$", places[-1].name)


def test_an_error_that_passes_is_found_behind_a_long_path(tmp_path, monkeypatch):
    checkpoints = saved(tmp_path, [1.0, 2.0])
    text = f'Error reading "a/0" in {"/a/long/path" * 40}: {os.strerror(errno.EIO)} [source]'

    def restore(*arguments, **options):
        try:
            raise ValueError(text)
        except ValueError as e:
            raise Exception("Encountered an error") from e  # as orbax does

    monkeypatch.setattr(checkpoints._manager, "restore", restore)
    with pytest.raises(UserError, match="cannot be read now"):
        restore_one(checkpoints, "latest", STATE, WHOLE)
    assert checkpoints.steps() == [2, 1]
    checkpoints.close()


def test_a_reader_beside_a_run_takes_what_is_there_now(tmp_path):
    trainer = saved(tmp_path, [None, None])
    reader = Checkpoints(tmp_path, read_only=True)
    assert reader.steps() == [2, 1]
    for step in (3, 4):  # two are kept, so both of those that the reader knows are deleted
        trainer.save(step, STATE, {})
        trainer.wait()
    step, state, damaged = restore_one(reader, "latest", STATE, WHOLE)
    assert step == 4 and not damaged
    tiny.assert_trees_equal(state, STATE)
    reader.close(), trainer.close()


def test_what_is_read_back_is_compared_bit_for_bit(tmp_path, monkeypatch):
    checkpoints = saved(tmp_path, [1.0])
    checkpoints.verify(1, STATE)
    described = checkpoints._described(1)
    described["leaves"]["['b']"][2] += 1
    monkeypatch.setattr(checkpoints, "_described", lambda step: described)
    with pytest.raises(Damaged, match=r"\['b'\] is not what was saved"):
        checkpoints.verify(1, STATE)
    with pytest.raises(Damaged, match="nothing is there"):
        checkpoints.verify(7, STATE)
    checkpoints.close()


@pytest.mark.parametrize("dtype", [np.float32, np.int8, np.float16, jnp.bfloat16, np.uint32])
def test_fingerprints_on_the_host_are_those_on_the_device(dtype):
    array = np.random.default_rng(0).integers(0, 200, (7, 5, 3)).astype(dtype)
    expected = int(fingerprints._on_devices([jnp.asarray(array)])[0])
    assert fingerprints.fingerprints([jnp.asarray(array)]) == [expected]
    assert fingerprints.fingerprint(array) == expected
    assert fingerprints.fingerprint(array, block=8) == expected


def test_ranks_that_were_measured_otherwise_are_no_rivals(tmp_path):
    def save(measured, ranks):
        mine = Checkpoints(tmp_path, keep=1, metric="fd", measured=measured)
        for step, rank in ranks.items():
            mine.save(step, STATE, {}, rank)
        mine.wait()
        found = mine.best_step(), mine.steps()
        mine.close()
        return found

    assert save(0, {1: 3.0, 2: 4.0}) == (1, [2, 1])  # from before there were yardsticks
    assert save(7, {3: 5.0, 4: 6.0}) == (3, [4, 3, 1])
    assert save(8, {5: 9.0, 6: 8.0, 7: 9.5}) == (6, [7, 6, 3, 1])
    assert save(7, {}) == (3, [7, 6, 3, 1])
    reader = Checkpoints(tmp_path, metric="fd", read_only=True)
    assert reader.best_step() == 6 and reader.metrics() == ["fd"]  # by the newest's
    reader.close()


def test_a_damaged_rank_costs_the_rank_alone(tmp_path):
    saved(tmp_path, [3.0, 2.0]).close()
    again = Checkpoints(tmp_path, metric="fd", read_only=True)
    assert again.best_step() == 2
    again.close()
    (file,) = (tmp_path / "checkpoints" / "2" / "meta").glob("metadata")
    file.write_bytes(file.read_bytes()[:50])
    again = Checkpoints(tmp_path, metric="fd", read_only=True)
    assert again.best_step() == 1 and again.steps() == [2, 1]
    assert restore_one(again, "latest", STATE, WHOLE)[0] == 1
    again.close()


def test_the_process_is_as_before_once_checkpoints_are_closed(tmp_path):
    log, hook = logging.getLogger("absl"), sys.unraisablehook
    filters = list(log.filters)
    first, second = saved(tmp_path / "a", [1.0]), saved(tmp_path / "b", [1.0])
    assert sys.unraisablehook != hook
    first.close(), second.close()
    assert sys.unraisablehook == hook and log.filters == filters


def test_what_orbax_warns_of_is_seen_in_a_line(tmp_path, caplog):
    checkpoints = saved(tmp_path, [1.0])
    record = logging.LogRecord(
        "absl", logging.WARNING, "/x/orbax/y.py", 1, "no %s\n  was saved", ("part",), None
    )
    logging.getLogger("absl").propagate, before = True, logging.getLogger("absl").propagate
    logging.getLogger("absl").handle(record)
    logging.getLogger("absl").propagate = before
    assert [r.getMessage() for r in caplog.records if "part" in r.getMessage()] == [
        "no part was saved"
    ]
    checkpoints.close()
