"""Checkpoints of a run; the only file that knows orbax."""

import pathlib

import jax
import orbax.checkpoint as ocp


class Checkpoints:
    """Saves and restores train states under `<workdir>/checkpoints`, asynchronously.

    The state is any pytree of arrays; `meta` is a small dict that goes with it as JSON. A save that
    was interrupted leaves no checkpoint, so the latest one is always whole.
    """

    def __init__(self, workdir, *, keep=2, read_only=False):
        # A reader tidies nothing away: what looks unfinished may be a save of a run in progress.
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep, cleanup_tmp_directories=not read_only
        )
        path = pathlib.Path(workdir).resolve() / "checkpoints"
        self._manager = ocp.CheckpointManager(path, options=options)

    def latest_step(self):
        """Step of the newest checkpoint, or None."""
        return self._manager.latest_step()

    def save(self, step, state, meta):
        """Starts saving in the background; the arrays may be donated right away."""
        self._manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(state), meta=ocp.args.JsonSave(meta)
            ),
        )

    def meta(self):
        """The `meta` of the newest checkpoint."""
        only = ocp.args.Composite(meta=ocp.args.JsonRestore())
        return self._manager.restore(self.latest_step(), args=only).meta

    def restore(self, like, sharding):
        """Reads the state of the newest checkpoint.

        Args:
          like: a pytree of arrays or shapes with the structure of the state.
          sharding: where each restored array is put.
        """
        abstract = jax.tree.map(
            lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=sharding), like
        )
        only = ocp.args.Composite(state=ocp.args.StandardRestore(abstract))
        return self._manager.restore(self.latest_step(), args=only).state

    def close(self):
        """Waits for the last save and frees the manager."""
        self._manager.wait_until_finished()
        self._manager.close()
