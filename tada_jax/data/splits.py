"""Folders that are the splits of a data set, as `train`, `val` and `test`.

AFHQ has `train/cat`, `val/cat`, ...; Kaggle's competitions a `train` with labels and a flat `test`.
"""

import dataclasses
import os
import re
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
    kind = {folder: _kind(folder) for folder in found}
    if -1 in kind.values() or len(set(kind.values())) < len(kind) or 0 not in kind.values():
        return None
    train, held_out, *left = sorted(found, key=kind.get)
    clause = f"trained on {train!r}, held out is {held_out!r}"
    if left:
        clause += f"; left out: {len(found[left[0]]):,} images of {left[0]!r}"
    return Divided(found[train], found[held_out], clause)


def inside(names: list[str]) -> list[str]:
    """The same names, without the folders of splits where there are any."""
    divided = of_folders(names)
    return names if divided is None else [*divided.train, *divided.held_out]


def _kind(word: str) -> int:
    """0 of training, then those of `HELD_OUT` in order; -1 of other words."""
    known = (k for k, some in enumerate((TRAIN, *HELD_OUT)) if word.lower() in some)
    return next(known, -1)


def of_shards(names: list[str]) -> tuple[dict[str, str], list[str]]:
    """({file: its split}, files that are left out) of a set that lies in several files.

    The split is told by a word of the name, the last if there are several: that of
    `data/train-00000-of-00002.parquet`, `test/0000.parquet` and `flowers_val-000001.tar`. Words
    that mean the same, as `val` and `dev`, are one split, "train", "test" or "val". All splits are
    "" where no file is of training; else files of unknown splits are left out.
    """
    split, canonical = {}, (TRAIN[0], *(words[0] for words in HELD_OUT))
    for name in names:
        kinds = [_kind(word) for word in re.split(r"[\W_\d]+", name)]
        kinds = [kind for kind in kinds if kind >= 0]
        split[name] = canonical[kinds[-1]] if kinds else ""
    if TRAIN[0] not in split.values():
        return dict.fromkeys(names, ""), []
    left = sorted(name for name, word in split.items() if not word)
    return {name: word for name, word in split.items() if word}, left


def labelled(
    divided: Divided, how: str, decide: Callable[[list[tuple[str, int]]], labels.Labels]
) -> tuple[Divided, labels.Labels]:
    """(the splits, the classes of their images in `Divided.order`).

    Where training images have classes and those held out have none, the latter cannot be used and
    are left out.

    Args:
      divided: the splits.
      how: one of `labels.LABELS`.
      decide: the classes of images, of their names without the split's folder and their numbers.

    Raises:
      UserError: as of `decide`.
    """
    # Of both at once, so that a class has the same number in both.
    train, held_out = list(divided.train.items()), list(divided.held_out.items())
    try:
        found = decide([*train, *held_out])
    except UserError:
        if how not in ("file", "folders"):  # which may be of the training images alone
            raise
        found = labels.Labels()
    rest = set(range(len(train), len(train) + len(held_out)))
    if (found.names and (found.kept is None or rest <= set(found.kept))) or how == "none":
        return divided, found
    alone = decide(train)
    if not alone.names:
        return divided, found
    clause = f"{divided.clause}, but without classes: its {len(held_out):,} are left out"
    return Divided(divided.train, {}, clause), alone


def arrange(
    names: list[str],
    others: tuple[str, ...],
    how: str,
    read: Callable[[str], bytes],
    told: labels.Told | None = None,
) -> tuple[Divided | None, labels.Labels, frozenset[str]]:
    """The splits and the classes of the images of a folder or archive.

    Args:
      names: of the images, relative to the root of the set, POSIX.
      others: of the files beside them, of which some may tell classes.
      how: one of `labels.LABELS`.
      read: the content of a file by its name; raises ValueError.
      told: what the set itself says of each image, if it does.

    Returns:
      (splits, or None where there are none; classes of the images in `Divided.order`, or in that
      of `names`; those of `others` that tell them).

    Raises:
      UserError: as of `labels.decide`.
    """
    table = labels.find(others, names)
    named = table is not None and table.endswith(labels.FILE)  # by which every image is named
    divided = of_folders(names)
    if told is None and not named and how in ("auto", "file"):
        told = labels.beside(names, others, read)
        if told is None and table is None and divided:
            told = _tables(names, divided, others, read)

    def decide(images):
        if told is not None and how in ("auto", "file"):
            return labels.of_told([names[number] for _, number in images], told, how)
        if named and how in ("auto", "file"):
            return labels.decide([names[number] for _, number in images], how, table, read)
        return labels.decide([name for name, _ in images], how, table, read)

    used = told.files if told is not None else frozenset([table] if table else ())
    if divided is None:
        return None, decide(list(zip(names, range(len(names))))), used
    return *labelled(divided, how, decide), used


def _tables(names, divided, others, read) -> labels.Told | None:
    """What files in the folders of splits say, as `train/metadata.csv` or `train/dataset.json`."""
    of_each, files, clauses = {}, [], []
    for part in (divided.train, divided.held_out):
        inside = [names[number] for number in part.values()]
        file = labels.find(others, inside)
        if file is None:
            continue
        if file.endswith(labels.FILE):
            found = labels.decide(inside, "file", file, read)
        else:
            found = labels.by_table(inside, file, read)
        if isinstance(found, str):
            clauses.append(f"{file} {found}, so that it names no classes")
            continue
        clauses.append(found.clause)
        if found.names:
            files.append(file)
            of_each.update(zip(inside, (found.names[number] for number in found.numbers)))
    if not clauses:
        return None
    return labels.Told(of_each, "; ".join(clauses), files=frozenset(files))
