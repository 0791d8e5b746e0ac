"""Folders that are the splits of a data set, as `train`, `val` and `test`.

AFHQ has `train/cat`, `val/cat`, ...; Kaggle's competitions a `train` with labels and a flat `test`.
"""

import dataclasses
import os
from collections.abc import Callable

import numpy as np

from tada_jax.data import labels
from tada_jax.system.errors import UserError

TRAIN = ("train", "training")
HELD_OUT = (("test", "testing"), ("val", "valid", "validation", "dev"))  # the first there is


@dataclasses.dataclass(frozen=True)
class Divided:
    """A set in splits.

    Attributes:
      train, held_out: {name without the split's folder: number of the image} each.
      clause: what became of the folders, for the data report.
    """

    train: dict[str, int]
    held_out: dict[str, int]
    clause: str

    @property
    def order(self):
        """Numbers of the images, int [N]: those of training, then those held out."""
        return np.array([*self.train.values(), *self.held_out.values()])


def of_folders(names: list[str]) -> Divided | None:
    """The splits of images; None where their folders are no splits.

    Args:
      names: of the images, relative to the root of the set, POSIX.
    """
    folders = [name.split("/")[:-1] for name in names]
    depth = len(os.path.commonprefix(folders))
    if any(len(parts) == depth for parts in folders):
        return None
    found = {}
    for number, (name, parts) in enumerate(zip(names, folders)):
        inside = "/".join([*parts[:depth], *name.split("/")[depth + 1 :]])
        found.setdefault(parts[depth], {})[inside] = number
    kind = {
        folder: next((k for k, some in enumerate((TRAIN, *HELD_OUT)) if folder.lower() in some), -1)
        for folder in found
    }
    if -1 in kind.values() or len(set(kind.values())) < len(kind) or 0 not in kind.values():
        return None
    train, held_out, *left = sorted(found, key=kind.get)
    clause = f"trained on {train!r}, held out is {held_out!r}"
    if left:
        clause += f"; left out: {len(found[left[0]]):,} images of {left[0]!r}"
    return Divided(found[train], found[held_out], clause)


def labelled(
    divided: Divided, how: str, file: str | None, read: Callable[[str], bytes]
) -> tuple[Divided, labels.Labels]:
    """(the splits, the classes of their images in `Divided.order`); arguments as `labels.decide`.

    Where training images have classes and those held out lie in no such folders, the latter cannot
    be used and are left out.

    Raises:
      UserError: as of `labels.decide`.
    """

    def decide(names):
        return labels.decide(list(names), how, file, read)

    # Of both at once, so that a class has the same number in both.
    both, count = [*divided.train, *divided.held_out], len(divided.order)
    try:
        found = decide(both)
    except UserError:
        if not (how == "file" and file):  # of which a table may have the training images alone
            raise
        found = labels.Labels()
    whole = found.kept is None or set(range(len(divided.train), count)) <= set(found.kept)
    if (found.names and whole) or how == "none":
        return divided, found
    alone = decide(divided.train)
    if not alone.names:
        return divided, found
    clause = f"{divided.clause}, but without classes: its {len(divided.held_out):,} are left out"
    return Divided(divided.train, {}, clause), alone
