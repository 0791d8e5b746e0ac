"""Which checkpoint is taken: the newest that is whole, the best, or the one of a step."""

from tada_jax.system.errors import UserError
from tada_jax.training.damage import Damaged

_MOST_RELOADS = 10


def _candidates(checkpoints, which):
    """The steps to try, the first that can be read being the one; see `restore_one`."""
    steps = checkpoints.steps()
    if which == "latest":
        return steps
    if which == "best":
        best = checkpoints.best_step()
        if best is None:
            others = checkpoints.metrics()
            names = " or ".join(map(repr, others))
            number = ", with config.train.total_steps as a number" * (
                checkpoints.metric == "window"
            )
            remedy = f"only by {names}: give that as config.log.best_metric{number}, or"
            remedy = remedy if others else ""
            raise UserError(
                f"{checkpoints.path} holds no checkpoint that was ranked by "
                f"{checkpoints.metric!r}{', ' if others else ': '}{remedy} take latest"
            )
        return [best]
    candidates = [s for s in steps if str(s) == which]
    if not candidates:
        raise UserError(
            f"{checkpoints.path} holds no checkpoint {which!r}: choose latest, best or one of "
            f"{', '.join(map(str, steps)) or 'none'}"
        )
    return candidates


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
    for reloads_left in range(_MOST_RELOADS, -1, -1):
        damaged, gone = {}, False
        for step in _candidates(checkpoints, which):
            try:
                return step, checkpoints.restore(step, like, sharding), damaged
            except Damaged as e:
                damaged[step] = str(e)
                gone = gone or not (checkpoints.path / str(step)).is_dir()
        if not (gone and reloads_left):
            break
        checkpoints.reload()  # a run in progress has deleted one while it was read
    if damaged:
        reasons = "; ".join(f"step {step}: {reason}" for step, reason in damaged.items())
        raise UserError(
            f"no checkpoint in {checkpoints.path} can be read ({reasons}): restore it from a copy, "
            "or start again in another --workdir"
        )
    return None, None, damaged
