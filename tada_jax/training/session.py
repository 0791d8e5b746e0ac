"""What the parts of a training session share."""

import dataclasses
import pathlib

from tada_jax.setup.plan import Plan
from tada_jax.system import logs
from tada_jax.training.checkpoint import Checkpoints


@dataclasses.dataclass(frozen=True)
class Session:
    """A plan being carried out in a folder.

    Attributes:
      plan: a `setup.plan.Plan`.
      workdir: the folder.
      checkpoints: of the whole state.
      snapshots: of the averages for post-hoc EMA, or None where there are none.
      log: metrics.jsonl and TensorBoard events.
      progress: the console.
    """

    plan: Plan
    workdir: pathlib.Path
    checkpoints: Checkpoints
    snapshots: Checkpoints | None
    log: logs.Log
    progress: logs.Progress
