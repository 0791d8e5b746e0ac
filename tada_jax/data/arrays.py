"""Images that are arrays already: .npy and .npz files, and fitting arrays to a stated size."""

import dataclasses
import json
import math
import pathlib
import time
import zipfile
from collections.abc import Iterable

import numpy as np

from tada_jax.data import levels, named_arrays
from tada_jax.data.base import Dataset, Options, Split, files_alone, hold_out, not_there
from tada_jax.data.cache import cached, digest, load_cached
from tada_jax.data.classes import natural
from tada_jax.data.labels import of_folders_alone
from tada_jax.system.errors import UserError
from tada_jax.system.logs import Progress
from tada_jax.system.paths import expanded, to_json

_CHUNK = 256  # images that are hashed together


def load(options: Options) -> Dataset:
    """Loads a .npy of images, or a .npz with images, labels and perhaps a test split.

    Images are [N,H,W,C], [N,C,H,W] or [N,H,W]; a .npy of uint8 stays on disk, memory-mapped, other
    numbers become uint8 by `options.range` and are kept in the cache. In a .npz they are called as
    in `named_arrays.IMAGES` or are the only array that can be images; labels as in `LABELS`, whole
    numbers from 0, which stay the names of their classes unless there are `CLASS_NAMES`, or text; a
    test split as in `TEST_IMAGES` and `TEST_LABELS`. Other arrays, as a third split, are named in
    the source. With `options.labels` "none" labels are left out. RGBA is laid over
    `options.background` and kept in the cache.

    Raises:
      UserError: naming the file and what is wrong with it.
    """
    path = file_of(options)
    try:
        if path.suffix.lower() == ".npy":
            return dataset(path, options, _plain(np.load(path, mmap_mode="r", allow_pickle=False)))
        if not zipfile.is_zipfile(path):
            np.load(path, allow_pickle=False)  # says what is wrong, if it is no array either
            raise ValueError("it holds a single array: call it .npy")
        with np.load(path, allow_pickle=False) as archive:
            return of_named(path, options, archive)
    except UserError:
        raise
    except Exception as error:  # damaged archives and headers raise almost anything
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(
            f"data.path={path} cannot be read ({reason[:200]}): it must be a whole .npy or .npz "
            "file of plain numbers"
        ) from error


def _plain(array):
    if not isinstance(array, np.ndarray):  # an archive, or a member of one that is no array
        raise ValueError("what should be an array is none")
    return array


def file_of(options: Options) -> pathlib.Path:
    """The file at `options.path`, once the options fit one that holds arrays.

    Raises:
      UserError: if it is none, or they do not.
    """
    path = expanded(options.path)
    if not path.is_file():
        raise not_there(options.path, "does not exist or is no file")
    if options.labels not in ("auto", "none"):
        raise of_folders_alone(options.labels)
    files_alone(options, path)
    return path


def of_named(path: pathlib.Path, options: Options, found) -> Dataset:
    """The Dataset of named arrays, by `named_arrays.choose` or as it has chosen.

    Raises:
      UserError: naming the file and what is wrong with it.
    """
    if not isinstance(found, named_arrays.Chosen):
        found = named_arrays.choose(path, found, labelled=options.labels != "none")
    made = dataset(
        path,
        options,
        found.images,
        found.labels,
        found.test_images,
        found.test_labels,
        found.class_names,
    )
    return with_clause(made, found.clause) if found.clause else made


def with_clause(found: Dataset, clause: str) -> Dataset:
    """The same data set, of which the report says one thing more."""
    return dataclasses.replace(found, source=f"{found.source}; {clause}")


def dataset(
    path, options, found, labels=None, test_images=None, test_labels=None, class_names=None
):
    """The Dataset of arrays.

    Args:
      path: where they come from.
      options: `Options`.
      found, test_images: images as of `load`, or `Stored`; without the latter some are held out.
      labels, test_labels: whole numbers from 0 or text, [N] or [N,1,...]; None without.
      class_names: text of every label from 0; None without.

    Raises:
      UserError: naming the file and what is wrong with it.
    """
    found, moved = _shaped(path, found)
    labels = _of_each(path, labels, len(found))  # before the images: they may be large
    if test_images is not None:
        test_images, _ = _shaped(path, test_images)
        test_labels = _of_each(path, test_labels, len(test_images))
    if labels is not None and labels.dtype.kind == "U":
        labels, test_labels, class_names = _spelt(path, labels, test_labels)
    labels = _whole_numbers(path, labels)
    values, numbers = _classes(labels)
    names = _names(path, values, class_names)
    test_numbers = None
    if test_images is not None:
        test_labels = _whole_numbers(path, test_labels)
        if (labels is None) != (test_labels is None):
            raise UserError(
                f"data.path={path}: only one of its two splits has labels: save both, or none"
            )
        if labels is not None:
            strange = np.setdiff1d(test_labels, labels)
            if len(strange):
                raise UserError(
                    f"data.path={path}: its test labels are not of the same classes: no training "
                    f"image has the label {strange[0]}"
                )
            if numbers is not None:
                test_numbers = np.searchsorted(values, test_labels).astype(np.int32)
    found, chosen = _valued(path, found, options)
    if test_images is None:
        train, test = hold_out(Split(found, numbers), options.test_fraction, options.seed)
    else:
        test_images, _ = _valued(path, test_images, options, chosen)
        if test_images.shape[1:] != found.shape[1:]:
            raise UserError(f"data.path={path}: its test images have another size than the others")
        train, test = Split(found, numbers), Split(test_images, test_numbers)
    source = (
        f"{path.name}: {len(train.images):,} training + {len(test.images):,} held-out images, "
        f"{'x'.join(map(str, found.shape[1:]))}"
    )
    source += f"; {chosen.clause}" if chosen.clause else ""
    source += "; its channels came first" if moved else ""
    if labels is not None and numbers is None:
        source += f"; labels left out, since all are {labels[0]}"
    return Dataset(path.stem, train, test, len(values), source, names)


def _spelt(path, labels, test_labels):
    """(labels, test labels, names) of labels that are text: numbered in natural order."""
    both = [part for part in (labels, test_labels) if part is not None]
    if any(part.dtype.kind != "U" for part in both):
        raise UserError(f"data.path={path}: only one of its two splits has labels that are text")
    names = sorted({str(name) for part in both for name in part.ravel()}, key=natural)
    number = {name: i for i, name in enumerate(names)}
    numbered = [np.vectorize(number.get, otypes=[np.int32])(part) for part in both]
    return numbered[0], (numbered[1] if len(numbered) > 1 else None), np.array(names)


def _names(path, values, class_names):
    """The names of the classes whose labels are `values`, of an array of all of them or None."""
    if class_names is None or not len(values):
        return tuple(map(str, values))
    class_names = text(np.asarray(class_names))
    if class_names.ndim != 1 or class_names.dtype.kind != "U" or len(class_names) <= values[-1]:
        raise UserError(
            f"data.path={path}: its names of classes are {class_names.dtype} "
            f"{list(class_names.shape)}, and its labels go up to {values[-1]}: save one text a "
            "label, from 0, or leave them out"
        )
    return tuple(str(class_names[value]) for value in values)


def _shaped(path, found):
    """(the same [N,H,W,C] with C = 1, 3 or 4, whether channels came first), by its shape alone."""

    def refuse(what, remedy):
        raise UserError(f"data.path={path}: its images are {what}: {remedy}")

    kind = _kind(found)
    if found.ndim not in (3, 4) or 0 in found.shape:
        refuse(kind, "they must be [N,H,W,C] or [N,H,W], and at least one")
    if found.dtype.kind not in "buif":
        refuse(kind, "they must be real numbers")
    if found.ndim == 3:
        if found.shape[-1] in (3, 4):
            refuse(kind, "that looks like a single one [H,W,C]; they must be [N,H,W,C] or [N,H,W]")
        return found[..., None], False
    if found.shape[-1] in (1, 3, 4):
        return found, False
    if found.shape[1] in (1, 3):
        return found.transpose(0, 2, 3, 1), True
    refuse(kind, "1 (grey), 3 (RGB) or 4 (RGBA) channels are known")


def _kind(found):
    return f"{found.dtype} {list(found.shape)}"


def _valued(path, found, options, chosen=None):
    """(uint8 [N,H,W,C], C = 1 or 3, `Levels`) of what is `_shaped`; `chosen` are of others."""
    try:
        chosen = _levels(found, options) if chosen is None else chosen
        made = _in_8_bits(found, chosen)
    except ValueError as error:
        raise UserError(f"data.path={path}: its array {_kind(found)} {error}") from error
    if made.shape[-1] == 4:  # RGBA
        h, w = made.shape[1:3]
        made = _fitted(made, options, resolution=min(h, w), fit="keep", channels=3)
    return made, chosen


def _levels(found, options):
    """The `Levels` of an array [N,H,W,C] of any numbers."""
    if options.range == "full":
        return levels.full(found.dtype)
    if options.range != "auto":
        return levels.given(options.range)
    if not hasattr(found, "content"):
        ends = _ends(found)
    else:  # to read it again would take long

        def make(folder):
            (folder / "ends.json").write_text(to_json(_ends(found)))

        def load(folder):
            return tuple(map(float, json.loads((folder / "ends.json").read_text())))

        ends = load_cached(digest("ends 1", found.content), make, load, kind="ends")
    return levels.of_set(*ends, found.dtype.name)


def _ends(found):
    """The smallest and the largest value, once it is clear what they say."""
    lowest, highest = [], []
    for piece in _pieces(found):
        if not np.isfinite(piece).all():
            raise ValueError("holds values that are not finite")
        lowest.append(piece.min().item())
        highest.append(piece.max().item())
        if found.dtype == np.uint8 and highest[-1] > 1:
            break  # no masks
    return min(lowest), max(highest)


def _in_8_bits(found, chosen):
    """An array [N,H,W,C] of any numbers as uint8; in memory, or memory-mapped from the cache."""
    as_it_is = found.dtype == np.uint8 and (chosen.black, chosen.white) == (0, 255)
    if as_it_is and not hasattr(found, "content"):
        return found
    settings = repr((found.shape, found.dtype.str, chosen.black, chosen.white))

    def rows():
        for piece in _pieces(found):
            for image in piece:  # one at a time, since it takes 8 bytes a value meanwhile
                yield image if as_it_is else chosen.to_uint8(image)

    def make(folder):
        write(folder / "images.npy", rows(), len(found))

    return read(cached(digest("levels 1", settings, *_content(found)), make))


def _pieces(found):
    """The rows of an array or `Stored`, as arrays of a few of them."""
    step = getattr(found, "step", _CHUNK)
    return (found[i : i + step] for i in range(0, len(found), step))


def _content(found):
    """Digests of the chunks of an array, or that which a `Stored` has."""
    if hasattr(found, "content"):
        return [found.content]
    chunks = range(0, len(found), _CHUNK)
    return [digest(np.ascontiguousarray(found[i : i + _CHUNK]).tobytes()) for i in chunks]


def _of_each(path, labels, count):
    """Labels of any type as an array [count], read only if there is one for each image, or None."""
    if labels is None:
        return None
    if not labels.ndim or labels.shape[0] != count or math.prod(labels.shape) != count:
        raise _no_labels(path, labels, count)
    return text(np.asarray(labels)).reshape(count)


def text(array: np.ndarray) -> np.ndarray:
    """An array of bytes as one of text; others as they are."""
    return np.char.decode(array, "utf-8") if array.dtype.kind == "S" else array


def _whole_numbers(path, labels):
    """Labels [N] as whole numbers from 0, checked; None if there are none."""
    if labels is None:
        return None
    if labels.dtype.kind == "b" or (labels.dtype.kind == "f" and (labels % 1 == 0).all()):
        labels = labels.astype(np.int64)  # as MATLAB saves all numbers
    if not np.issubdtype(labels.dtype, np.integer):
        raise _no_labels(path, labels, len(labels))
    if labels.min() < 0:
        raise UserError(f"data.path={path}: its labels go down to {labels.min()}: count from 0")
    return labels


def _no_labels(path, labels, count):
    return UserError(
        f"data.path={path}: its labels are {_kind(labels)}, not whole numbers [{count}]: save one "
        "label for each image, or set data.labels=none"
    )


def _classes(labels):
    """(sorted values, int32 [N]); ([], None) if there are fewer than two classes."""
    if labels is None:
        return [], None
    values, numbers = np.unique(labels, return_inverse=True)
    return (values, numbers.astype(np.int32)) if len(values) > 1 else ([], None)


def conform(found, options: Options):
    """Brings images [N,H,W,C] to the stated resolution, channels and fit, if they are not there.

    Without a stated resolution arrays keep their height and width, square or not.

    Returns:
      The same array, or a memory-mapped one from the cache.

    Raises:
      UserError: if the resolution is far too large.
    """
    h, w, c = found.shape[1:]
    channels = options.channels or c
    fit, resolution = options.fit, options.resolution
    if resolution is None:
        fit, resolution = "keep", min(h, w)
    there = min(h, w) == resolution and (h == w or fit == "keep")
    if there and channels == c:
        return found
    return _fitted(found, options, resolution=resolution, fit=fit, channels=channels)


def _fitted(found, options, *, resolution, fit, channels):
    """Every image through `images.fit`, memory-mapped from the cache."""
    import PIL

    from tada_jax.data import images  # here, because Pillow takes a while to import

    def fitted(image):
        return images.fit(
            image,
            resolution=resolution,
            fit=fit,
            channels=channels,
            background=options.background,
        )

    try:
        fitted(found[0])
    except ValueError as error:
        raise UserError(f"data.resolution={resolution}: an image {error}; lower it") from error

    settings = repr((found.shape, resolution, fit, channels, tuple(options.background)))

    def make(folder):
        chunks = range(0, len(found), _CHUNK)
        rows = (fitted(image) for i in chunks for image in found[i : i + _CHUNK])
        write(folder / "images.npy", rows, len(found))

    return read(cached(digest("conform 3", PIL.__version__, settings, *_content(found)), make))


def write(file: pathlib.Path, rows: Iterable[np.ndarray], count: int) -> None:
    """Writes `count` images uint8 [H,W,C] of one shape, as they come, as a .npy [N,H,W,C].

    Raises:
      ValueError: if their shapes differ.
    """
    progress, started, shape = Progress(count, unit="fitting image"), time.monotonic(), None
    # Written, not mapped: on a full disk a mapped file ends the process without a word.
    with file.open("wb") as stream:
        for done, row in enumerate(rows, 1):
            if shape is None:
                shape = row.shape
                np.lib.format.write_array_header_1_0(
                    stream, {"descr": "|u1", "fortran_order": False, "shape": (count, *shape)}
                )
            if row.shape != shape:
                raise ValueError(f"images become {row.shape} and {shape}")
            stream.write(row.tobytes())
            seconds = time.monotonic() - started
            if seconds > 2:
                progress.update(done, f"{done / seconds:,.0f} images/s", seconds / done)
    progress.end()


def read(folder: pathlib.Path) -> np.ndarray:
    """Maps what `write` has written as images.npy in a folder of the cache.

    Raises:
      UserError: if it is damaged.
    """
    try:
        return np.load(folder / "images.npy", mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"the cache folder {folder} is damaged; delete it") from error
