"""The classes of a data set: their order, how they are addressed, and how many images they have."""

import dataclasses
import json
import pathlib
import re

import numpy as np

from tada_jax.data.base import Dataset
from tada_jax.data.cache import digest
from tada_jax.system.errors import UserError
from tada_jax.system.paths import to_json, write_whole

FILE = "classes.json"  # in the folder of a run
_SHOWN = 8  # names in an error or a piece of advice
_LONGEST_SLUG = 60  # characters


@dataclasses.dataclass(frozen=True)
class Class:
    """A class of a data set.

    Attributes:
      number: what the network is told, from 0.
      name: that of the source: of a folder, or the user's label.
      train, held_out: its images; None where that is not known.
    """

    number: int
    name: str
    train: int | None = None
    held_out: int | None = None

    @property
    def title(self) -> str:
        """As "class 3: 'cat'", or "class 3" if that is its name as well."""
        same = self.name == str(self.number)
        return f"class {self.number}" + ("" if same else f": {self.name!r}")

    @property
    def slug(self) -> str:
        """The name as a part of that of a folder: no other class has the same."""
        name = re.sub(r"[^\w .+-]", lambda match: f"%{ord(match[0]):x}", self.name)
        fits = len(name) <= _LONGEST_SLUG
        return name if fits else f"{name[: _LONGEST_SLUG - 9]}-{digest(name)[:8]}"


def natural(name: str):
    """A key to sort names by in which runs of digits count as numbers: "a2", "a10", "b"."""
    parts = re.split("([0-9]+)", name)  # text and digits by turns
    parts[1::2] = [(len(digits), digits) for digits in map(_without_zeros, parts[1::2])]
    return parts, name


def names(num_classes: int, class_names=()) -> tuple[str, ...]:
    """The name of each class; its number where the source has no names."""
    return tuple(class_names) or tuple(map(str, range(num_classes)))


def of(dataset: Dataset) -> tuple[Class, ...]:
    """The classes of a data set, also those without images; () if it has no labels."""
    count = dataset.num_classes
    if not count:
        return ()
    train, held_out = (
        [0] * count if split.labels is None else np.bincount(split.labels, minlength=count).tolist()
        for split in (dataset.train, dataset.test)
    )
    return tuple(map(Class, range(count), names(count, dataset.class_names), train, held_out))


def number_of(label: str | int, known: tuple[str, ...]) -> int:
    """The number of the class that a user calls `label`.

    It is a name, or a whole number that equals one: 1 is the class called "001". Only where no
    class is called by a number, it counts the classes from 0.

    Args:
      label: a name or a number, also as text.
      known: the names of all classes, in order.

    Raises:
      UserError: if there is no such class, naming those that there are.
    """
    text = str(label)
    if text in known:
        return known.index(text)
    numeric = [i for i, name in enumerate(known) if _is_number(name)]
    if _is_number(text):
        digits = _without_zeros(text)
        equal = [i for i in numeric if _without_zeros(known[i]) == digits]
        if len(equal) == 1:
            return equal[0]
        if not numeric and len(digits) < 10 and int(text[-10:]) < len(known):
            return int(text[-10:])
    raise UserError(
        f"config.sample.label={text!r} is none of the {len(known)} classes: choose one of "
        f"{listed(known)}" + ("" if numeric else f", or its number, 0 to {len(known) - 1}")
    )


def listed(some) -> str:
    """Names of classes in a line, shortened."""
    shown = [repr(name if len(name) <= 40 else name[:37] + "...") for name in some]
    if len(shown) > _SHOWN:
        shown = [*shown[: _SHOWN - 2], "...", shown[-1]]
    return ", ".join(shown)


def renumbered(before: tuple[str, ...], now: tuple[str, ...]) -> str:
    """A clause on classes that were in another order, for the refusal of a run; "" if not."""
    if tuple(before) == tuple(now) or sorted(before) != sorted(now):
        return ""
    return (
        f"its classes were numbered in the order {listed(before)}, and are in natural order now, "
        f"{listed(now)}"
    )


def keep(dataset: Dataset, folder: pathlib.Path) -> None:
    """Writes the classes of a run's data set to its folder, if there are any."""
    lines = [to_json(one) for one in of(dataset)]
    if lines:
        write_whole(folder / FILE, "[\n  " + ",\n  ".join(lines) + "\n]\n")
    else:
        (folder / FILE).unlink(missing_ok=True)  # of a run that never came to its first checkpoint


def kept(folder: pathlib.Path, known: tuple[str, ...]) -> tuple[Class, ...]:
    """The classes of a run; without numbers of images if its folder has not kept them.

    Args:
      folder: of the run.
      known: their names, from a checkpoint.

    Raises:
      UserError: if the file is damaged, or of other classes.
    """
    file = folder / FILE
    if not file.exists():
        return tuple(Class(number, name) for number, name in enumerate(known))
    try:
        found = tuple(Class(**fields) for fields in json.loads(file.read_text()))
        counts = [n for one in found for n in (one.train, one.held_out)]
        if [(one.number, one.name) for one in found] != list(enumerate(known)):
            raise ValueError("other classes")
        if not all(isinstance(n, int) for n in counts):
            raise ValueError("no numbers of images")
    except (ValueError, TypeError) as error:
        raise UserError(
            f"{file} is damaged, or of another run: delete it (--mode=train writes it again)"
        ) from error
    return found


def unlearnt(drawn: tuple[Class, ...]) -> str:
    """A warning about classes that are drawn without a training image of theirs; "" if none is."""
    empty = [one for one in drawn if one.train == 0]
    if not empty:
        return ""
    if len(drawn) == 1:
        return f"no training image is of {empty[0].title}, so that the network has not learnt it"
    return (
        f"{len(empty)} of the {len(drawn)} classes that are drawn by turns have no training image, "
        f"so that the network has not learnt them ({listed(one.name for one in empty)}): draw one "
        "that has by config.sample.label"
    )


def _is_number(text):
    return re.fullmatch("[0-9]+", text) is not None


def _without_zeros(digits):
    return digits.lstrip("0") or "0"
