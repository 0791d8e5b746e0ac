"""Which of the named arrays of a file are the images, the labels and the test split.

A file is a mapping of names, perhaps with groups as "train/images", to arrays: numpy's, or whatever
has `shape`, `ndim` and `dtype` and is read when it is asked for its values.
"""

import dataclasses
import pathlib
import re
from collections.abc import Callable, Mapping

from tada_jax.system.errors import UserError

IMAGES = ("images", "x_train", "train_images", "train_x", "train_set_x", "x", "data", "arr_0")
LABELS = (
    *("labels", "y_train", "train_labels", "train_y", "train_set_y", "y"),
    *("label", "target", "targets", "ans", "arr_1"),
)
CLASS_NAMES = ("class_names", "label_names", "target_names", "list_classes", "classes")
TEST_IMAGES = ("x_test", "test_images", "test_x", "test_set_x")
TEST_LABELS = ("y_test", "test_labels", "test_y", "test_set_y")

_TEST = ("test", "testing")
_OTHERS = ("val", "valid", "validation", "dev", "extra", "unlabeled", "unlabelled")  # of groups
_ROLES = {
    "images": IMAGES,
    "labels": LABELS,
    "names of classes": CLASS_NAMES,
    "test images": TEST_IMAGES,
    "test labels": TEST_LABELS,
}
_IN_TEST = {
    **{"images": "test images", "test images": "test images"},
    **{"labels": "test labels", "test labels": "test labels"},
}
_OF_NAME = {name: role for role, names in _ROLES.items() for name in names}
_SHOWN = 12  # names in one line


@dataclasses.dataclass(frozen=True)
class NoArray:
    """What else has a name in a file; `what` says it, as "compound values"."""

    what: str
    ndim = 0


@dataclasses.dataclass(frozen=True)
class Chosen:
    """The arrays of a data set, each as it was found in the file; None where there is none.

    Attributes:
      images, labels, class_names, test_images, test_labels: as `arrays.dataset` takes them.
      left: the others, one text each, as "val_images [6, 28, 28]".
      notes: what the report says of the rest.
    """

    images: object
    labels: object = None
    class_names: object = None
    test_images: object = None
    test_labels: object = None
    left: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def clause(self) -> str:
        """What the report says of them, "" if nothing."""
        left = (f"left out: its arrays {_listed(self.left)}",) if self.left else ()
        return "; ".join((*self.notes, *left))

    def without_test(self, left: str) -> "Chosen":
        """The same without its test split, named as left out."""
        return dataclasses.replace(
            self, test_images=None, test_labels=None, left=(*self.left, left)
        )


def role(name: str) -> str | None:
    """What an array is by its name: a key of `_ROLES`, None if unknown, "other" of another split.

    Case does not matter. "train/images" and "images" are the same; "test/images" are test images.
    """
    *groups, leaf = name.lower().split("/")
    if set(groups) & set(_OTHERS):
        return "other"
    found = _OF_NAME.get(leaf)
    if set(groups) & set(_TEST):
        return _IN_TEST.get(found, "other")
    return found


def choose(
    path: pathlib.Path,
    found: Mapping,
    *,
    labelled: bool = True,
    along: Callable = lambda shape: shape[:1],
) -> Chosen:
    """The `Chosen` of what a file holds.

    Args:
      path: of the file, for what is said of it.
      found: name -> array or `NoArray`.
      labelled: whether labels are wanted; names of classes are taken with labels alone.
      along: which lengths of a shape of images may be their number.

    Raises:
      UserError: naming the arrays of which it is not clear which are meant.
    """
    of_role, used = {}, set()
    for name in found:
        of_role.setdefault(role(name), []).append(name)

    def take(what):
        present = of_role.get(what, ())
        if len(present) > 1:  # a link to an array does not stand beside it
            present = [name for name in present if not _is_none(found[name])] or present[:1]
        if len(present) > 1:
            raise UserError(
                f"data.path={path}: which of its arrays {_listed(present, ' and ')} are the "
                f"{what}? Save only one of them (it holds {_listed(found)})"
            )
        if not present:
            return None
        array = _array(path, present[0], found[present[0]], what != "images")
        if _is_none(array):
            return None
        used.update(present)
        return array

    images = take("images")
    if images is None:
        # A name of its own is fine as long as only one array can be meant.
        others = {name: _array(path, name, found[name], True) for name in of_role.get(None, ())}
        candidates = {name: array for name, array in others.items() if array.ndim in (3, 4)}
        if len(candidates) != 1:
            names = [
                f"{name} ({others[name].what})" if _is_none(others.get(name)) else name
                for name in found
            ]
            raise UserError(
                f"data.path={path}: which of its arrays ({_listed(names) or 'none'}) are "
                f"the images? Name them images, uint8 [N,H,W,C]"
            )
        ((name, images),) = candidates.items()
        used.add(name)
    test_images = take("test images")
    labels, test_labels, names = None, None, None
    if labelled:
        labels, test_labels = take("labels"), take("test labels")
        if labels is not None:
            names = take("names of classes")
        else:
            labels = _labels_called_classes(found, along(images.shape), used)
    left = [f"{name} {_described(found[name])}" for name in found if name not in used]
    return Chosen(images, labels, names, test_images, test_labels, tuple(left))


def _labels_called_classes(found, counts, used):
    for name in found:
        array = found[name]
        if name.lower() == "classes" and array.ndim and array.shape[0] in counts:
            used.add(name)
            return array
    return None


def _array(path, name, array, anything=False):
    if _is_none(array) and not anything:
        raise UserError(
            f"data.path={path}: its array {name} is {array.what}: save it as an array of numbers"
        )
    if not _is_none(array) and not hasattr(array, "ndim"):  # a file in an archive
        raise ValueError("what should be an array is none")
    return array


def _is_none(array):
    return isinstance(array, NoArray)


def _described(array):
    return f"({array.what})" if _is_none(array) else list(array.shape)


def _listed(names, by=", "):
    names = list(names)
    more = [f"{len(names) - _SHOWN:,} more"] if len(names) > _SHOWN else []
    return by.join(names[:_SHOWN] + more)


def beside(path: pathlib.Path) -> dict[str, pathlib.Path]:
    """The files of a data set of which one is named, as {"": it, "test/": another}.

    Some sets have a file for each split, and perhaps one for labels: cat_train_x.h5,
    cat_train_y.h5, cat_test_x.h5. The keys are for the names of what they hold.

    Args:
      path: of a file; one without "train" in its name has none beside it.
    """
    found = {"": path}
    match = re.fullmatch(
        r"((?:.*[-_. ])?)(train|training)((?:[-_. ].*)?)", path.stem, re.IGNORECASE
    )
    if not match:
        return found
    for split in (match[2], *_TEST, *_OTHERS):
        file = path.with_name(f"{match[1]}{split}{match[3]}{path.suffix}")
        labels = file.with_stem(f"{file.stem[:-1]}y") if file.stem.endswith("_x") else None
        group = "" if split == match[2] else f"{split}/"
        if file != path and file.is_file():
            found[group] = file
        if labels is not None and labels.is_file():
            found[f"{group}labels/"] = labels
    return found
