"""Checkpoints of a run; the only file that knows orbax."""

import contextlib
import errno
import logging
import math
import os
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from tada_jax.data.cache import digest
from tada_jax.errors import UserError
from tada_jax.paths import to_json

# Whatever fails in orbax reaches us as an exception; its log repeats that as pages of tracebacks.
logging.getLogger("absl").addFilter(lambda record: "orbax" not in record.pathname)


def _quiet(hook):
    """`sys.unraisablehook` without the ends of reads and writes that orbax has abandoned.

    When one array cannot be read or written, it waits for none of the others; each of them then
    reports that its event loop is closed, at any time later.
    """

    def filtered(event):
        if str(event.exc_value) != "Event loop is closed":
            hook(event)

    return filtered


sys.unraisablehook = _quiet(sys.unraisablehook)


class Damaged(Exception):
    """A checkpoint that cannot be read, or does not hold what was saved; says why in a line."""


@jax.jit
def fingerprints(tree):
    """A sum over the bits of every leaf, uint32 [leaves], in the order of `jax.tree.leaves`.

    The words of an array are multiplied by odd numbers that depend on their place, and added modulo
    2^32: exact in whatever order, so equal on any number of devices. Any single changed word, and
    almost any other change, gives another sum.
    """

    def of(leaf):
        unsigned = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}[leaf.dtype.itemsize]
        words = jax.lax.bitcast_convert_type(leaf, unsigned).reshape(-1).astype(jnp.uint32)
        places = jnp.arange(words.size, dtype=jnp.uint32)
        return jnp.sum(words * (2 * places + 1), dtype=jnp.uint32)

    return jnp.stack([of(leaf) for leaf in jax.tree.leaves(tree)])


def _names(tree):
    return [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)]


class Checkpoints:
    """Saves and restores train states under `<workdir>/<folder>`, asynchronously.

    The newest `keep` of them are kept (None: all), and the best. The state is any pytree of arrays;
    `meta` is a small dict that goes with it as JSON. A save that was interrupted leaves no
    checkpoint; one that was damaged later is found out when it is read.
    """

    def __init__(self, workdir, *, keep=2, metric="", read_only=False, folder="checkpoints"):
        self.path = pathlib.Path(workdir).resolve() / folder
        self._metric = metric
        # One that was saved with another metric than is asked for now counts as the worst.
        rank = lambda metrics: metrics.get(metric, math.inf)  # noqa: E731
        policies = [
            checkpoint_managers.LatestN(keep),
            checkpoint_managers.BestN(
                get_metric_fn=rank, reverse=True, n=1, keep_checkpoints_without_metrics=False
            ),
        ]
        # A reader tidies nothing away: what looks unfinished may be a save of a run in progress.
        self._options = ocp.CheckpointManagerOptions(
            best_fn=rank,
            best_mode="min",
            preservation_policy=checkpoint_managers.AnyPreservationPolicy(policies),
            cleanup_tmp_directories=not read_only,
            create=not read_only,
        )
        self._open()

    def _open(self):
        self._manager = ocp.CheckpointManager(self.path, options=self._options)

    def steps(self):
        """Steps of all checkpoints, newest first."""
        return sorted(self._manager.all_steps(), reverse=True)

    def latest_step(self):
        """Step of the newest checkpoint, or None."""
        return self._manager.latest_step()

    def best_step(self):
        """Step of the checkpoint with the smallest metric, or None if none has one."""
        best = self._manager.best_step()
        metrics = {} if best is None else self._manager.metrics(best)
        return best if self._metric in (metrics or {}) else None

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
        sums = np.asarray(fingerprints(state)).tolist()
        leaves = jax.tree.leaves(state)
        table = {
            name: [list(leaf.shape), leaf.dtype.name, number]
            for name, leaf, number in zip(_names(state), leaves, sums)
        }
        usable = metric is not None and math.isfinite(metric)
        whole = {"meta": meta, "leaves": table}
        with _disk_errors():
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(state),
                    meta=ocp.args.JsonSave({**whole, "digest": _digest(whole)}),
                ),
                metrics={self._metric: metric} if usable else None,
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
        only = ocp.args.Composite(meta=ocp.args.JsonRestore())
        with _damage():
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
        with _damage():
            only = ocp.args.Composite(state=ocp.args.StandardRestore(abstract))
            state = self._manager.restore(step, args=only).state
        for name, number in zip(_names(state), np.asarray(fingerprints(state)).tolist()):
            if number != saved[name][2]:
                raise Damaged(f"{name} is not what was saved")
        return state

    def set_aside(self, step):
        """Moves a checkpoint out of the way, to `<workdir>/damaged/<step>`; returns where.

        In a run of several processes all of them call this.
        """
        self._manager.close()
        target = self.path.parent / "damaged" / str(step)
        if jax.process_index() == 0:
            target = move_aside(self.path / str(step), self.path.parent)
        ocp.multihost.sync_global_processes("set aside")
        self._open()
        return target

    def wait(self):
        """Waits until the last save is on disk.

        Raises:
          OSError: if it could not be written.
        """
        with _disk_errors():
            self._manager.wait_until_finished()

    def close(self):
        """Frees the manager; waits for the last save, and keeps quiet if it fails."""
        with contextlib.suppress(Exception):
            self._manager.wait_until_finished()
        self._manager.close()


def _digest(tree):
    """Of what is saved as JSON."""
    return digest(to_json(tree, sort_keys=True))


# What stands in the way of reading today and may be gone tomorrow; the checkpoint may be whole.
_PASSING = tuple(
    os.strerror(number)
    for number in (
        errno.EMFILE,
        errno.ENFILE,
        errno.EACCES,
        errno.EPERM,
        errno.EIO,
        errno.ESTALE,
        errno.ENOMEM,
    )
) + ("RESOURCE_EXHAUSTED", "PERMISSION_DENIED")


def move_aside(folder, workdir=None):
    """Moves a folder of a run to `<workdir>/damaged/`, keeping what lies there; returns where."""
    target = (workdir or folder.parent) / "damaged" / folder.name
    target.parent.mkdir(exist_ok=True)
    while target.exists():
        target = target.with_name(target.name + "-again")
    folder.rename(target)
    return target


@contextlib.contextmanager
def _damage():
    """Turns whatever orbax and tensorstore raise for damaged files into `Damaged`.

    Raises:
      UserError: instead, where something other than the files is at fault.
    """
    try:
        yield
    except Exception as e:
        reason = " ".join(f"{type(e).__name__}: {e}".split())[:200]
        if any(text in reason for text in _PASSING):
            raise UserError(
                f"a checkpoint cannot be read now ({reason}): make it readable, and the same "
                "command continues; or move it away, to go on from the one before"
            ) from e
        raise Damaged(reason) from e


@contextlib.contextmanager
def _disk_errors():
    """Turns whatever tensorstore raises about a full or failing disk into an OSError."""
    try:
        yield
    except OSError:
        raise
    except Exception as e:
        reason = " ".join(str(e).split())
        raise OSError(None, reason[:300]) from e


def _difference(saved, wanted):
    """The first thing in which two tables of leaves differ, in words."""
    for name in sorted(saved.keys() | wanted.keys()):
        if saved.get(name) != wanted.get(name):
            words = lambda leaf: "absent" if leaf is None else f"{leaf[1]}{list(leaf[0])}"  # noqa: E731
            return f"{name} was saved as {words(saved.get(name))}, is {words(wanted.get(name))}"


def restore_one(checkpoints, which, like, sharding):
    """Restores the checkpoint that a user asks for.

    Args:
      checkpoints: a `Checkpoints`.
      which: "latest", passing over damaged ones, "best", or a step as "5000".
      like, sharding: as of `Checkpoints.restore`.

    Returns:
      (step, state, damaged): `damaged` is {step: reason} of those that were passed over. The step
      and the state are None if there is no checkpoint at all.

    Raises:
      UserError: if the one asked for is not there, is damaged, or does not fit; or if all are
        damaged.
    """
    steps = checkpoints.steps()
    if which == "latest":
        candidates = steps
    elif which == "best":
        candidates = [s for s in (checkpoints.best_step(),) if s is not None]
        if not candidates:
            raise UserError(f"{checkpoints.path} holds no checkpoint with a metric: take latest")
    else:
        candidates = [s for s in steps if str(s) == which]
        if not candidates:
            raise UserError(
                f"{checkpoints.path} holds no checkpoint {which!r}: choose latest, best or one of "
                f"{', '.join(map(str, steps)) or 'none'}"
            )
    damaged = {}
    for step in candidates:
        try:
            return step, checkpoints.restore(step, like, sharding), damaged
        except Damaged as e:
            damaged[step] = str(e)
    if damaged:
        reasons = "; ".join(f"step {step}: {reason}" for step, reason in damaged.items())
        raise UserError(
            f"no checkpoint in {checkpoints.path} can be read ({reasons}): restore it from a copy, "
            "or start again in another --workdir"
        )
    return None, None, damaged
