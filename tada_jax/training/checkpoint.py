"""Checkpoints of a run; the only file that knows orbax."""

import contextlib
import dataclasses
import errno
import json
import math
import os
import pathlib
import tempfile
from collections.abc import Callable

import jax
import numpy as np

from tada_jax.data.cache import digest
from tada_jax.system import quiet
from tada_jax.system.errors import UserError
from tada_jax.system.paths import to_json
from tada_jax.training import damage
from tada_jax.training.damage import Damaged
from tada_jax.training.fingerprints import fingerprint, fingerprints


def _one_copy(array):
    """An array that is whole on every device of this process, on one of them.

    Of several copies orbax saves a slice each, and each slice costs a compilation.
    """
    return (
        array.addressable_data(0)
        if array.is_fully_addressable and array.is_fully_replicated
        else array
    )


def _names(tree):
    return [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)]


class Checkpoints:
    """Saves and restores train states under `<workdir>/<folder>`, asynchronously.

    The newest `keep` of them are kept (None: all), and the best by each metric, of which a run that
    goes on under another `config.log.best_metric`, or measures it otherwise (`measured`, see
    `yardstick.of_ranks`; a reader takes that of the newest), has two. The state is any pytree of
    arrays; `meta` is a small dict that goes with it as JSON. A save that was interrupted leaves no
    checkpoint; one that was damaged later is found out when it is read.
    """

    def __init__(
        self,
        workdir,
        *,
        keep=2,
        metric="",
        measured=0,
        read_only=False,
        folder="checkpoints",
    ):
        import orbax.checkpoint as ocp  # takes half a second, in which XLA may compile

        self._orbax = ocp
        self.path = pathlib.Path(workdir).resolve() / folder
        self.metric, self._measured = metric, measured
        self._open_for = contextlib.ExitStack()
        # A reader tidies nothing away: what looks unfinished may be a save of a run in progress.
        self._options = ocp.CheckpointManagerOptions(
            preservation_policy=_Preserved(keep, self._bests_of),
            cleanup_tmp_directories=not read_only,
            create=not read_only,
        )
        quiet.orbax.enter()
        self._open_for.callback(quiet.orbax.leave)
        self._ranks = {}
        self._open()

    def _open(self):
        path = self.path
        if any(c in str(path) for c in _PATTERN):
            if not self._options.create and not path.is_dir():
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
            path.mkdir(parents=True, exist_ok=True)
            path = _alias(path, self._open_for)
        self._manager = self._orbax.CheckpointManager(path, options=self._options)
        self._ranks = {step: self._rank_of(step) for step in self._manager.all_steps()}

    def reload(self):
        """Looks again for checkpoints: another process may have saved some and deleted others."""
        self._manager.reload()
        self._ranks = {step: self._rank_of(step) for step in self._manager.all_steps()}

    def _rank_of(self, step):
        """{(metric, by what yardstick): number} of a checkpoint; {} where none can be read."""
        try:
            found = self._described(step)
            rank = found.get("rank") or self._rank_in_a_file(step)
            return {(metric, found.get("measured", 0)): number for metric, number in rank.items()}
        except (Damaged, UserError, OSError, ValueError, TypeError):
            return {}  # whoever restores the checkpoint will hear of it

    def _rank_in_a_file(self, step):
        """The same, of a checkpoint from before the ranks were saved with its description."""
        file = self.path / str(step) / "metrics" / "metrics"
        return json.loads(file.read_text()) if file.is_file() else {}

    def steps(self):
        """Steps of all checkpoints, newest first."""
        return sorted(self._manager.all_steps(), reverse=True)

    def latest_step(self):
        """Step of the newest checkpoint, or None."""
        return self._manager.latest_step()

    def best_step(self):
        """Step of the checkpoint with the smallest metric, the newest of equals; None without."""
        steps = self._manager.all_steps()
        return self._bests_of(steps).get((self.metric, self._yardstick(steps)))

    def metrics(self):
        """The names of all metrics by which a checkpoint was ranked, sorted."""
        return sorted({metric for metric, _ in self._bests_of(self._manager.all_steps())})

    def _yardstick(self, steps):
        """That of the ranks that count: one's own, or a reader's, of the newest with one."""
        ranks = (self._ranks.get(step, {}) for step in sorted(steps, reverse=True))
        found = (by for rank in ranks for metric, by in rank if metric == self.metric and by)
        return self._measured or next(found, 0)

    def _bests_of(self, steps):
        """{(metric, yardstick): the best of some of the steps}; by another they are no rivals."""
        bests = {}
        for step in sorted(steps, reverse=True):
            for key, number in self._ranks.get(step, {}).items():
                if number is not None and (key not in bests or number < bests[key][0]):
                    bests[key] = number, step
        return {key: step for key, (_, step) in bests.items()}

    def save(self, step, state, meta, metric=None):
        """Starts saving in the background; the arrays may be donated right away.

        Args:
          step: names the checkpoint; one that exists is left as it is.
          state: pytree of arrays.
          meta: dict for JSON.
          metric: the number by which the best checkpoint is chosen, the smaller the better.

        Raises:
          OSError: if this save, or the one before it, could not be written.
        """
        if step in self._manager.all_steps():
            return
        sums = fingerprints(state)
        leaves = jax.tree.leaves(state)
        table = {
            name: [list(leaf.shape), leaf.dtype.name, number]
            for name, leaf, number in zip(_names(state), leaves, sums)
        }
        usable = metric is not None and math.isfinite(metric)
        rank = {self.metric: float(metric)} if usable else {}
        whole = {"meta": meta, "leaves": table, "rank": rank, "measured": self._measured}
        self._ranks[step] = {(name, self._measured): number for name, number in rank.items()}
        with damage.writing():
            self._manager.save(
                step,
                args=self._orbax.args.Composite(
                    state=self._orbax.args.StandardSave(jax.tree.map(_one_copy, state)),
                    meta=self._orbax.args.JsonSave({**whole, "digest": _digest(whole)}),
                ),
                force=True,
            )

    def meta(self, step):
        """The `meta` of a checkpoint.

        Raises:
          Damaged: if it cannot be read.
        """
        return self._described(step)["meta"]

    def _described(self, step):
        """What was saved beside the arrays.

        Raises:
          Damaged: if it cannot be read, or is not what was saved.
        """
        only = self._orbax.args.Composite(meta=self._orbax.args.JsonRestore())
        with damage.reading():
            whole = dict(self._manager.restore(step, args=only).meta)
            if whole.pop("digest", None) != _digest(whole):
                raise ValueError("its description is not what was saved")
            return whole

    def restore(self, step, like, sharding):
        """Reads the state of a checkpoint.

        Args:
          step: of the checkpoint.
          like: a pytree of arrays or shapes with the structure of the state.
          sharding: where the restored arrays are put, one for all or a pytree of them.

        Raises:
          Damaged: if it cannot be read, or is not what was saved.
          UserError: if the state was that of another network or optimiser.
        """
        saved = self._described(step)["leaves"]
        shapes = {name: (tuple(shape), dtype) for name, (shape, dtype, _) in saved.items()}
        wanted = {n: (a.shape, a.dtype.name) for n, a in zip(_names(like), jax.tree.leaves(like))}
        if shapes != wanted:
            raise UserError(
                f"the checkpoint of step {step} in {self.path} does not fit this configuration: "
                f"{_difference(shapes, wanted)}; choose another --workdir, or the old configuration"
            )
        one = isinstance(sharding, jax.sharding.Sharding)
        abstract = jax.tree.map(
            lambda a, at: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=at),
            like,
            jax.tree.map(lambda _: sharding, like) if one else sharding,
        )
        with damage.reading():
            only = self._orbax.args.Composite(state=self._orbax.args.StandardRestore(abstract))
            state = self._manager.restore(step, args=only).state
        for name, number in zip(_names(state), fingerprints(state)):
            if number != saved[name][2]:
                raise Damaged(f"{name} is not what was saved")
        return state

    def verify(self, step, state):
        """Waits for a save, reads it back to the host, and compares it bit for bit.

        Args:
          step: of the checkpoint.
          state: what was saved, or the shapes of it.

        Raises:
          Damaged: if it is not there, or is not what was saved.
          OSError: if it could not be written.
        """
        self.wait()
        if not (self.path / str(step)).is_dir():
            raise Damaged("nothing is there")
        saved = self._described(step)["leaves"]
        shapes = jax.tree.map(lambda a: np.empty(a.shape, a.dtype), state)
        with damage.reading():
            only = self._orbax.args.Composite(state=self._orbax.args.StandardRestore(shapes))
            read = self._manager.restore(step, args=only).state
        for name, array in zip(_names(read), jax.tree.leaves(read)):
            if fingerprint(array) != saved[name][2]:
                raise Damaged(f"{name} is not what was saved")

    def set_aside(self, step):
        """Moves a checkpoint out of the way, to `<workdir>/damaged/<step>`; returns where.

        In a run of several processes all of them call this.
        """
        self._manager.close()
        target = self.path.parent / "damaged" / str(step)
        if jax.process_index() == 0:
            target = damage.move_aside(self.path / str(step), self.path.parent)
        self._orbax.multihost.sync_global_processes("set aside")
        self._open()
        return target

    def wait(self):
        """Waits until the last save is on disk.

        Raises:
          OSError: if it could not be written.
        """
        with damage.writing():
            self._manager.wait_until_finished()

    def close(self):
        """Frees the manager; waits for the last save, and keeps quiet if it fails."""
        with contextlib.suppress(OSError):
            self.wait()
        self._manager.close()
        self._open_for.close()


@dataclasses.dataclass(frozen=True)
class _Preserved:
    """Orbax's policy: what is kept are the newest `keep` (None: all), and each metric's best."""

    keep: int | None
    bests_of: Callable[[list[int]], dict[str, int]]

    def should_preserve(self, checkpoints, *, context):
        """Which of the checkpoints, the oldest first, are kept; a list of bool."""
        oldest = 0 if self.keep is None else len(checkpoints) - self.keep
        bests = self.bests_of([each.step for each in checkpoints]).values()
        return [i >= oldest or each.step in bests for i, each in enumerate(checkpoints)]


# Orbax looks for the parts of a save with the folder's path as a pattern of the shell.
_PATTERN = "[]*?\\"


def _alias(path, stack):
    """Another path of a folder, without characters that mean something in a pattern.

    Args:
      path: of the folder, which exists.
      stack: a `contextlib.ExitStack`, at whose end the alias goes.

    Raises:
      UserError: if there is no place for it.
    """
    try:
        place = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tada_jax.")))
        (place / "checkpoints").symlink_to(path, target_is_directory=True)
    except OSError as e:
        raise UserError(
            f"{path}: checkpoints cannot be saved under a name with one of {_PATTERN}, and a link "
            f"to it in {tempfile.gettempdir()} cannot be made ({e.strerror}): choose another "
            "--workdir"
        ) from e
    return place / "checkpoints"


def _digest(tree):
    """Of what is saved as JSON."""
    return digest(to_json(tree, sort_keys=True))


def _difference(saved, wanted):
    """The first thing in which two tables of leaves differ, in words."""
    for name in sorted(saved.keys() | wanted.keys()):
        if saved.get(name) != wanted.get(name):

            def words(leaf):
                return "absent" if leaf is None else f"{leaf[1]}{list(leaf[0])}"

            return f"{name} was saved as {words(saved.get(name))}, is {words(wanted.get(name))}"
