"""Which class each image of a folder or zip is of: by a file of labels, its folder, or its name.

EDM's dataset tool and StyleGAN's write a `dataset.json` beside chunk folders of 1,000 images
(`00000/img00000000.png`), which are no classes; FFHQ comes in such folders without it;
guided-diffusion takes what stands before the first `_` of a file's name. Hugging Face's imagefolder
has a `metadata.csv` or `.jsonl` with a column `file_name`, Kaggle a `train.csv`.
"""

import csv
import dataclasses
import io
import os
import re
import unicodedata
from collections.abc import Callable, Iterable

import numpy as np

from tada_jax.data import classes
from tada_jax.data.names import parse_json
from tada_jax.system.errors import UserError

LABELS = ("auto", "folders", "prefix", "file", "none")
FILE = "dataset.json"
TABLES = ("metadata.csv", "metadata.jsonl", "train.csv", "labels.csv")
NAME_COLUMNS = ("file_name", "filename", "file", "image", "image_id", "image_name", "path", "id")
LABEL_COLUMNS = ("label", "labels", "class", "class_name", "category", "target", "dx", "diagnosis")
CHUNK = 1000  # images in a folder, of all tools that are known to make chunks
_PICTURES = {"images", "image", "imgs", "img", "pictures", "photos", "jpegimages"}
_BESIDE_THEM = {  # what data sets keep in folders beside those
    *(
        "masks",
        "mask",
        "annotations",
        "labels",
        "segmentation",
        "segmentations",
        "gt",
        "groundtruth",
    ),
    *("ground_truth", "segmentationclass", "unprocessed", "raw", "depth", "thumbnails", "previews"),
}
_LONGEST = 200  # characters of a label in a file of its own
MOST_STRAY = 0.1  # share of images beside their folders that are left out; more: no classes


@dataclasses.dataclass(frozen=True)
class Labels:
    """What was decided.

    Attributes:
      numbers: int32 [N], of the kept images; None without classes.
      names: of the classes, in order.
      clause: how that came about, for the data report.
      kept: int [N], which of the images these are; None: all.
    """

    numbers: np.ndarray | None = None
    names: tuple[str, ...] = ()
    clause: str = ""
    kept: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class Told:
    """What a set says of its images beside their names and folders.

    Attributes:
      of_each: {name of the image: its class}; None, or missing, of those without.
      clause: what says so, for the data report.
      order: of the classes; () for natural order.
      files: the names of those that say it.
    """

    of_each: dict[str, str | None]
    clause: str
    order: tuple[str, ...] = ()
    files: frozenset[str] = frozenset()


def _unless_one(found: Labels) -> Labels:
    """The same, but that a single class is none."""
    if found.numbers is None or len(np.unique(found.numbers)) > 1:
        return found
    only = found.names[found.numbers[0]] if len(found.numbers) else ""
    return Labels(clause=f"no classes, since all are {only!r} ({found.clause})", kept=found.kept)


def decide(names: list[str], how: str, file: str | None, read: Callable[[str], bytes]) -> Labels:
    """The classes of images.

    Args:
      names: of the images, relative to the root of the set, POSIX.
      how: one of `LABELS`: "auto" takes the labels of a file, else folders unless they are chunks.
      file: the name of the set's `dataset.json`, or of one of `TABLES`; None if there is none.
      read: the content of a file by its name; raises ValueError.

    Raises:
      UserError: if the labels that were asked for are not there, or do not fit the images.
    """
    return _unless_one(_decide(names, how, file, read))


def _decide(names, how, file, read) -> Labels:
    if how == "none":
        return Labels(clause="no classes, since data.labels=none")
    if how == "prefix":
        return _by_prefix(names)
    if how == "file" and file is None:
        raise UserError(
            f"data.labels=file, and there is no {FILE} beside the images, nor one of "
            f"{', '.join(TABLES)}: choose folders, prefix, none or auto"
        )
    if how == "folders":
        found = _by_folder(names, chunks_count=True)
        if found.numbers is None:
            why = found.clause.removeprefix("no classes, since ") or "none holds a class"
            raise UserError(
                f"data.labels=folders, and {why}: move the images of each class to a folder of "
                "their own, or set data.labels to none, prefix, file or auto"
            )
        return found
    if file is None:
        return _by_folder(names, chunks_count=False)
    if not file.endswith(FILE):
        found = by_table(names, file, read)
        if isinstance(found, Labels):
            return found
        if how == "file":
            raise UserError(f"{file} {found}: mend it, or choose another data.labels")
        folders = _by_folder(names, chunks_count=False)
        told = f"{file} {found}, so that it names no classes"
        return dataclasses.replace(folders, clause="; ".join(filter(None, (folders.clause, told))))
    told = _told(file, read)
    if told is None:
        return Labels(clause=f"{file} has no labels: no classes")
    return _by_file(names, file, told)


def of_told(names: list[str], told: Told, how: str) -> Labels:
    """The classes of images whose set says them.

    Raises:
      UserError: if some have none and `how` is "file".
    """
    found = [told.of_each.get(name) for name in names]
    lacking = [name for name, label in zip(names, found) if label is None]
    if not lacking:
        return _unless_one(_numbered(found, told.clause, order=told.order))
    if not any(told.of_each.values()):  # the clause says why there are none
        if how == "file":
            raise UserError(f"data.labels=file, and there are none: {told.clause}")
        return Labels(clause=told.clause)
    what = f"{len(lacking):,} of {len(names):,} images have no label, as {lacking[0]}"
    if how == "file":
        raise UserError(f"{what} ({told.clause}): add them, or choose another data.labels")
    return Labels(clause=f"no classes, since {what} ({told.clause})")


def beside(names: list[str], others: Iterable[str], read: Callable[[str], bytes]) -> Told | None:
    """The labels in files beside images, as WebDataset's: `0001.cls`, or a `label` in `0001.json`.

    They have the image's name up to its last dot, or up to the first dot of its last part.

    Args:
      names: of the images.
      others: of the files beside them.
      read: the content of a file by its name; raises ValueError.

    Returns:
      None where no image has one.

    Raises:
      UserError: if one cannot be read, or is no text.
    """
    there = set(others)
    for ending, label_of in ((".cls", _of_cls), (".json", _of_json)):
        if not any(name.endswith(ending) for name in there):
            continue
        files = {}
        for name in names:
            folder, slash, base = name.rpartition("/")
            keys = os.path.splitext(name)[0], folder + slash + base.partition(".")[0]
            files[name] = next((key + ending for key in keys if key + ending in there), None)
        of_each = {}
        for name, file in files.items():
            try:
                of_each[name] = label_of(read(file)) if file else None
            except (ValueError, TypeError) as error:
                raise UserError(
                    f"{file} is no label ({' '.join(str(error).split())}): mend it, or set "
                    "data.labels=none or folders"
                ) from error
        if any(label is not None for label in of_each.values()):
            used = frozenset(filter(None, files.values()))
            return Told(of_each, f"classes by {ending} files beside the images", files=used)
    return None


def _of_cls(content: bytes) -> str:
    text = content.decode("utf-8-sig").strip()
    if not text or len(text) > _LONGEST or not text.isprintable():
        raise ValueError(f"not one line of 1 to {_LONGEST} characters")
    return text


def _of_json(content: bytes) -> str | None:
    fields = parse_json(content)
    if not isinstance(fields, dict):
        return None
    label = next((fields[column] for column in LABEL_COLUMNS if column in fields), None)
    if isinstance(label, float) and label.is_integer():
        label = int(label)
    return str(label) if isinstance(label, (int, str)) and str(label) else None


def of_folders_alone(how: str) -> UserError:
    """The refusal of a way that is none of arrays and known data sets."""
    return UserError(f"data.labels={how!r} is of folders and zips: choose auto or none")


def find(files: Iterable[str], images: list[str]) -> str | None:
    """The `dataset.json`, or else the first of `TABLES`, that lies where all of the images are, or
    above; the lowest of several."""
    root = os.path.commonprefix([name.split("/")[:-1] for name in images])
    there = set(files)
    for known in (FILE, *TABLES):
        above = {"/".join([*root[:depth], known]) for depth in range(len(root) + 1)}
        if above & there:
            return max(above & there, key=len)
    return None


def _numbered(
    of_each: list[str],
    clause: str,
    kept: np.ndarray | None = None,
    order: tuple[str, ...] = (),
) -> Labels:
    # A Mac takes an accented letter apart: one name in two forms, seen alike, is one class.
    spelt = {unicodedata.normalize("NFC", name): name for name in sorted(set(of_each))}
    if len(spelt) < len(set(of_each)):
        of_each = [spelt[unicodedata.normalize("NFC", name)] for name in of_each]
        clause += "; names that differ in their Unicode form alone are one class"
    names = sorted(set(of_each), key=classes.natural)
    if order:  # also of those that no image is of, so that the numbers are the set's own
        names = list(order)
    numbers = {name: number for number, name in enumerate(names)}
    labels = np.array([numbers[name] for name in of_each], np.int32)
    return Labels(labels, tuple(names), clause, kept)


# By a file


def _told(file: str, read: Callable[[str], bytes]) -> dict | None:
    """{image: label} of a `dataset.json`; None where it says that there are none."""
    try:
        found = parse_json(read(file))["labels"]
        return None if found is None else {str(name): label for name, label in found}
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(
            f"{file} is no list of labels, as {{'labels': [['00000/img00000000.png', 3], ...]}} "
            f"({type(error).__name__}): mend it, or set data.labels=none or folders"
        ) from error


def _by_file(names: list[str], file: str, told: dict) -> Labels:
    root = file.removesuffix(FILE)
    missing = [name for name in names if name.removeprefix(root) not in told]
    if missing:
        raise UserError(
            f"{file} has labels of {len(told):,} images, and none of {len(missing):,} that lie "
            f"here, as {missing[0]}: add them, or set data.labels=none or folders"
        )
    found = [told[name.removeprefix(root)] for name in names]
    absent = len(told.keys() - {name.removeprefix(root) for name in names})
    clause = f"classes by {file}" + (f", which names {absent:,} more images" if absent else "")
    if all(isinstance(label, int) and not isinstance(label, bool) for label in found):
        return _numbered([str(label) for label in found], clause)
    vectors = _vectors(found)
    if vectors is None:
        odd = next(
            label for label in found if isinstance(label, bool) or not isinstance(label, int)
        )
        raise UserError(
            f"{file} has labels that are neither whole numbers nor lists of as many numbers, as "
            f"{str(odd)[:40]!r}: mend it, or set data.labels=none or folders"
        )
    one_hot = np.isin(vectors, (0, 1)).all() and (vectors.sum(1) == 1).all()
    if not one_hot:
        several = f"{vectors.shape[1]} numbers an image, which name no class"
        return Labels(clause=f"no classes, since {file} has {several}")
    return _numbered([str(i) for i in vectors.argmax(1)], f"{clause}, one-hot")


def _vectors(found: list) -> np.ndarray | None:
    """Lists of numbers, all as long, as float64 [N,K]; None if they are something else."""
    try:
        vectors = np.array(found, np.float64)
    except (ValueError, TypeError):
        return None
    return (
        vectors if vectors.ndim == 2 and vectors.shape[1] and np.isfinite(vectors).all() else None
    )


def by_table(names: list[str], file: str, read: Callable[[str], bytes]) -> Labels | str:
    """The classes in a column of a table; or why there are none, as the end of a sentence.

    Args:
      names: of the images.
      file: the name of the table, csv or jsonl, that lies where they are or above.
      read: the content of a file by its name; raises ValueError.
    """
    try:
        text = read(file).decode("utf-8-sig")
        if file.endswith(".jsonl"):
            rows = [parse_json(line) for line in text.splitlines() if line.strip()]
        else:
            rows = list(csv.DictReader(io.StringIO(text), strict=True))
        columns = list(rows[0])
        named = next(c for c in NAME_COLUMNS if c in columns)
    except StopIteration:
        return f"has no column of names ({', '.join(map(str, columns))})"
    except (ValueError, TypeError, IndexError, csv.Error) as error:
        return f"is no table that can be read ({type(error).__name__})"
    labelled = next((c for c in LABEL_COLUMNS if c in columns and c != named), None)
    if labelled is None:
        return f"has no column of labels ({', '.join(map(str, columns))})"
    # Kaggle's tables name images without their endings, and lie beside their folder.
    root = file.rpartition("/")[0]
    inside = [name.removeprefix(f"{root}/") for name in names]
    bare = [name.rpartition("/")[2] for name in names]
    told = {str(row.get(named)): row.get(labelled) for row in rows}
    if any(told[str(row.get(named))] != row.get(labelled) for row in rows):
        return "gives an image several labels"
    for ways in (inside, bare):
        if len(set(ways)) < len(names):
            continue
        for keys in (ways, _without_endings(ways)):
            if all(key in told for key in keys):
                found = [told[key] for key in keys]
                if any(label is None or isinstance(label, (list, dict)) for label in found):
                    return f"has labels in {labelled!r} that are none"
                different = len(set(map(str, found)))
                if different > max(2, len(found) // 2):
                    return f"has {different:,} labels of {len(found):,} images: numbers, no classes"
                absent = len(told) - len(names)
                more = f", which names {absent:,} more images" if absent else ""
                more += _passed_over([c for c in columns if c not in (named, labelled)])
                return _numbered(
                    [str(x) for x in found], f"classes by {labelled!r} of {file}{more}"
                )
    forms = zip(*(known for way in (inside, bare) for known in (way, _without_endings(way))))
    lacking = next((some[0] for some in forms if not told.keys() & set(some)), names[0])
    return f"names not all of the images, as {lacking}"


SPLIT_COLUMNS = ("split", "subset", "set", "partition", "fold")


def _passed_over(columns: list[str]) -> str:
    """Columns that nothing is made of, as the end of a clause."""
    if not columns:
        return ""
    split = next((column for column in columns if str(column).lower() in SPLIT_COLUMNS), None)
    remedy = (
        f", and {split!r} holds nothing out (sort the images into folders train and test for that)"
    )
    return f"; columns passed over: {', '.join(map(str, columns))}" + (remedy if split else "")


def _without_endings(names: list[str]) -> list[str]:
    return [os.path.splitext(re.sub(r"(?i)\.gz$", "", name))[0] for name in names]


# By names


def _by_prefix(names: list[str]) -> Labels:
    files = [name.rpartition("/")[2] for name in names]
    without = [name for name, file in zip(names, files) if "_" not in file]
    if without:
        raise UserError(
            f"data.labels=prefix takes what stands before the first _ of a file's name, and "
            f"{len(without):,} of {len(names):,} have none, as {without[0]}: rename, or choose "
            "folders, file, none or auto"
        )
    return _numbered(
        [file.partition("_")[0] for file in files], "classes by names up to the first _"
    )


def _by_folder(names: list[str], *, chunks_count: bool) -> Labels:
    folders = [name.split("/")[:-1] for name in names]
    inside, beside = list(range(len(names))), []
    while True:
        depth = len(os.path.commonprefix([folders[i] for i in inside]))
        level = [i for i in inside if len(folders[i]) == depth]
        if not level or len(level) == len(inside):
            break
        beside += level
        inside = [i for i in inside if len(folders[i]) > depth]
    if level or len(beside) > MOST_STRAY * len(names):
        lie = f"{len(beside):,} images lie" if len(beside) > 1 else "an image lies"
        return Labels(clause=f"no classes, since {lie} beside the sub-folders" if beside else "")
    of_each = [folders[i][depth] for i in inside]
    if not chunks_count and not beside and _are_chunks(names, of_each):
        return Labels(
            clause=f"no classes, since folders hold {CHUNK:,} consecutive images each "
            "(data.labels=folders makes them classes)"
        )
    clause = "classes by folders (data.labels=none: no classes)"
    lower = {folder.lower(): folder for folder in of_each}
    pictures, beside_them = (sorted(lower.keys() & some) for some in (_PICTURES, _BESIDE_THEM))
    if pictures and beside_them and not chunks_count:
        clause += (
            f"; {lower[beside_them[0]]!r} beside {lower[pictures[0]]!r} looks like the same "
            f"pictures in another form: if so, name the folder {lower[pictures[0]]!r} as data.path"
        )
    if beside:
        listed = classes.listed([names[i] for i in sorted(beside)])
        clause += f"; left out, since they lie beside the folders of classes: {listed}"
    return _numbered(of_each, clause, np.array(inside) if beside else None)


def _are_chunks(names: list[str], of_each: list[str]) -> bool:
    """Whether folders `00000`, `00001` (or `01000`), ... hold images by 1,000s of their numbers."""
    if not all(re.fullmatch("[0-9]{5,}", folder) for folder in set(of_each)):
        return False
    stems = [name.rpartition("/")[2].rpartition(".")[0] for name in names]
    numbers = [re.search("[0-9]+$", stem) for stem in stems]
    if not all(numbers):
        return False
    starts = np.array([int(number.group()) for number in numbers]) // CHUNK
    folders = np.array([int(folder) for folder in of_each])
    return bool((folders == starts).all() or (folders == starts * CHUNK).all())
