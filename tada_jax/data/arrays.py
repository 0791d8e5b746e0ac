"""Images that are arrays already: .npy and .npz files, and fitting arrays to a stated size."""

import pathlib
import time
import zipfile
from collections.abc import Iterable

import numpy as np

from tada_jax.data.base import Dataset, Options, Split, hold_out
from tada_jax.data.cache import cached, digest
from tada_jax.system.errors import UserError
from tada_jax.system.logs import Progress
from tada_jax.system.paths import expanded

IMAGES = ("images", "x_train", "train_images", "x", "arr_0")
LABELS = ("labels", "y_train", "train_labels", "y", "label", "arr_1")
TEST_IMAGES, TEST_LABELS = ("x_test", "test_images"), ("y_test", "test_labels")

_CHUNK = 256  # images that are hashed together


def load(options: Options) -> Dataset:
    """Loads a .npy of images, or a .npz with images, labels and perhaps a test split.

    Images are uint8 [N,H,W,C] or [N,H,W]; a .npy stays on disk, memory-mapped. In a .npz they are
    called as in `IMAGES` or are the only array that can be images; labels as in `LABELS`, any
    whole numbers from 0, which stay the names of their classes; a test split as in `TEST_IMAGES`
    and `TEST_LABELS`. RGBA is laid over `options.background` and kept in the cache.

    Raises:
      UserError: naming the file and what is wrong with it.
    """
    path = expanded(options.path)
    if not path.is_file():
        raise UserError(f"data.path={options.path} does not exist or is no file")
    try:
        if path.suffix.lower() == ".npy":
            return _dataset(path, options, _plain(np.load(path, mmap_mode="r", allow_pickle=False)))
        if not zipfile.is_zipfile(path):
            np.load(path, allow_pickle=False)  # says what is wrong, if it is no array either
            raise ValueError("it holds a single array: call it .npy")
        with np.load(path, allow_pickle=False) as archive:
            return _from_archive(path, options, archive)
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


def _from_archive(path, options, archive):
    def find(names, what):
        present = [name for name in names if name in archive.files]
        if len(present) > 1:
            raise UserError(
                f"data.path={path}: which of its arrays {' and '.join(present)} are the {what}? "
                f"Save only one of them (it holds {', '.join(archive.files)})"
            )
        return _plain(archive[present[0]]) if present else None

    found = find(IMAGES, "images")
    if found is None:
        # A name of its own is fine as long as only one array can be meant.
        known = {*LABELS, *TEST_IMAGES, *TEST_LABELS}
        candidates = {n: _plain(archive[n]) for n in archive.files if n not in known}
        candidates = [array for array in candidates.values() if array.ndim in (3, 4)]
        if len(candidates) != 1:
            raise UserError(
                f"data.path={path}: which of its arrays ({', '.join(archive.files) or 'none'}) are "
                f"the images? Name them images, uint8 [N,H,W,C]"
            )
        found = candidates[0]
    return _dataset(
        path,
        options,
        found,
        find(LABELS, "labels"),
        find(TEST_IMAGES, "test images"),
        find(TEST_LABELS, "test labels"),
    )


def _dataset(path, options, found, labels=None, test_images=None, test_labels=None):
    found = _checked(path, found, options)
    labels = _whole_numbers(path, labels, len(found))
    values, numbers = _classes(labels)
    if test_images is None:
        train, test = hold_out(Split(found, numbers), options.test_fraction, options.seed)
    else:
        test_images = _checked(path, test_images, options)
        if test_images.shape[1:] != found.shape[1:]:
            raise UserError(f"data.path={path}: its test images have another size than the others")
        test_labels = _whole_numbers(path, test_labels, len(test_images))
        if (labels is None) != (test_labels is None):
            raise UserError(
                f"data.path={path}: only one of its two splits has labels: save both, or none"
            )
        test_numbers = None
        if labels is not None:
            strange = np.setdiff1d(test_labels, labels)
            if len(strange):
                raise UserError(
                    f"data.path={path}: its test labels are not of the same classes: no training "
                    f"image has the label {strange[0]}"
                )
            if numbers is not None:
                test_numbers = np.searchsorted(values, test_labels).astype(np.int32)
        train, test = Split(found, numbers), Split(test_images, test_numbers)
    source = (
        f"{path.name}: {len(train.images):,} training + {len(test.images):,} held-out images, "
        f"{'x'.join(map(str, found.shape[1:]))}"
    )
    if labels is not None and numbers is None:
        source += f"; labels left out, since all are {labels[0]}"
    return Dataset(path.stem, train, test, len(values), source, tuple(map(str, values)))


def _checked(path, found, options):
    """uint8 [N,H,W,C], C = 1 or 3, from what was found."""

    def refuse(what, remedy):
        raise UserError(f"data.path={path}: its images are {what}: {remedy}")

    kind = f"{found.dtype} {list(found.shape)}"
    if found.ndim not in (3, 4) or 0 in found.shape:
        refuse(kind, "they must be uint8 [N,H,W,C] or [N,H,W], and at least one")
    if np.issubdtype(found.dtype, np.floating):
        refuse(kind, "save (x * 255).round().astype('uint8'), if they are 0..1")
    if found.dtype != np.uint8:
        refuse(kind, "save them as uint8, 0..255")
    if found.ndim == 3:
        if found.shape[-1] in (3, 4):
            refuse(kind, "that looks like a single one [H,W,C]; they must be [N,H,W,C] or [N,H,W]")
        return found[..., None]
    if found.shape[-1] in (1, 3):
        return found
    if found.shape[1] in (1, 3):
        refuse(kind, "channels come last: save x.transpose(0, 2, 3, 1)")
    if found.shape[-1] == 4:  # RGBA
        h, w = found.shape[1:3]
        return _fitted(found, options, resolution=min(h, w), fit="keep", channels=3)
    return refuse(kind, "1 (grey), 3 (RGB) or 4 (RGBA) channels are known")


def _whole_numbers(path, labels, count):
    """Labels as an array of integers [count], checked; None if there are none."""
    if labels is None:
        return None
    if labels.shape == (count, 1):
        labels = labels[:, 0]
    if labels.shape != (count,) or not np.issubdtype(labels.dtype, np.integer):
        raise UserError(
            f"data.path={path}: its labels are {labels.dtype} {list(labels.shape)}, not whole "
            f"numbers [{count}]: save one label for each image, or none"
        )
    if labels.min() < 0:
        raise UserError(f"data.path={path}: its labels go down to {labels.min()}: count from 0")
    return labels


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
    chunks = range(0, len(found), _CHUNK)
    content = [digest(np.ascontiguousarray(found[i : i + _CHUNK]).tobytes()) for i in chunks]

    def make(folder):
        rows = (fitted(image) for i in chunks for image in found[i : i + _CHUNK])
        write(folder / "images.npy", rows, len(found))

    return read(cached(digest("conform 3", PIL.__version__, settings, *content), make))


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
