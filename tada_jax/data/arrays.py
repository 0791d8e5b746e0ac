"""Images that are arrays already: .npy and .npz files, and fitting arrays to a stated size."""

import pathlib
import zipfile
import zlib

import numpy as np

from tada_jax.data.base import Dataset, Options, Split, hold_out
from tada_jax.data.cache import cached, digest
from tada_jax.errors import UserError

IMAGES = ("images", "x_train", "train_images", "x", "arr_0")
LABELS = ("labels", "y_train", "train_labels", "y", "label", "arr_1")
TEST_IMAGES, TEST_LABELS = ("x_test", "test_images"), ("y_test", "test_labels")


def load(options: Options) -> Dataset:
    """Loads a .npy of images, or a .npz with images, labels and perhaps a test split.

    Images are uint8 [N,H,W,C] or [N,H,W]; a .npy stays on disk, memory-mapped. In a .npz they are
    called as in `IMAGES` or are the only array that can be images; labels as in `LABELS`, any
    whole numbers.

    Raises:
      UserError: naming the file and what is wrong with it.
    """
    path = pathlib.Path(options.path).expanduser()
    if not path.is_file():
        raise UserError(f"data.path={options.path} does not exist or is no file")
    try:
        if path.suffix.lower() == ".npy":
            return _dataset(path, options, np.load(path, mmap_mode="r", allow_pickle=False))
        with np.load(path, allow_pickle=False) as archive:
            arrays = _Members(path, archive)
            return _from_archive(path, options, arrays)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error, KeyError) as e:
        reason = " ".join(str(e).split()) or type(e).__name__
        raise UserError(
            f"data.path={path} cannot be read ({reason[:200]}): it must be a whole .npy or .npz "
            "file of plain numbers"
        ) from e


class _Members:
    """The arrays of an open .npz by any of several names; what is asked for is read."""

    def __init__(self, path, archive):
        self.path, self.archive, self.names = path, archive, archive.files

    def find(self, names):
        return next((self.archive[name] for name in names if name in self.names), None)


def _from_archive(path, options, arrays):
    found = arrays.find(IMAGES)
    if found is None:
        # A name of its own is fine as long as only one array can be meant.
        candidates = [n for n in arrays.names if arrays.archive[n].ndim in (3, 4)]
        if len(candidates) != 1:
            raise UserError(
                f"data.path={path}: which of its arrays ({', '.join(arrays.names) or 'none'}) are "
                f"the images? Name them images, uint8 [N,H,W,C]"
            )
        found = arrays.archive[candidates[0]]
    test = arrays.find(TEST_IMAGES), arrays.find(TEST_LABELS)
    return _dataset(path, options, found, arrays.find(LABELS), *test)


def _dataset(path, options, found, labels=None, test_images=None, test_labels=None):
    found = _checked(path, found, options)
    names, numbers = _classes(path, labels, len(found))
    if test_images is None:
        train, test = hold_out(Split(found, numbers), options.test_fraction, options.seed)
    else:
        test_images = _checked(path, test_images, options)
        if test_images.shape[1:] != found.shape[1:]:
            raise UserError(f"data.path={path}: its test images have another size than the others")
        test_names, test_numbers = _classes(path, test_labels, len(test_images))
        if (numbers is None) != (test_numbers is None) or not set(test_names) <= set(names):
            raise UserError(f"data.path={path}: its test labels are not of the same classes")
        if test_numbers is not None:
            place = np.array([names.index(name) for name in test_names], np.int32)
            test_numbers = place[test_numbers]
        train, test = Split(found, numbers), Split(test_images, test_numbers)
    source = (
        f"{path.name}: {len(train.images):,} training + {len(test.images):,} held-out images, "
        f"{'x'.join(map(str, found.shape[1:]))}"
    )
    return Dataset(path.stem, train, test, len(names), source, tuple(names))


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
        return found[..., None]
    if found.shape[-1] in (1, 3):
        return found
    if found.shape[1] in (1, 3):
        refuse(kind, "channels come last: save x.transpose(0, 2, 3, 1)")
    if found.shape[-1] == 4:  # RGBA
        alpha = found[..., 3:].astype(np.float32) / 255
        colour = found[..., :3] * alpha + np.asarray(options.background, np.float32) * (1 - alpha)
        return np.round(colour).astype(np.uint8)
    return refuse(kind, "1 (grey), 3 (RGB) or 4 (RGBA) channels are known")


def _classes(path, labels, count):
    """(names, int32 [N] or None): labels 0..K-1 by sorted value."""
    if labels is None:
        return [], None
    labels = np.squeeze(labels)
    if labels.shape != (count,) or not np.issubdtype(labels.dtype, np.integer):
        raise UserError(
            f"data.path={path}: its labels are {labels.dtype} {list(labels.shape)}, not whole "
            f"numbers [{count}]: save one label for each image, or none"
        )
    if labels.min() < 0:
        raise UserError(f"data.path={path}: its labels go down to {labels.min()}: count from 0")
    values, numbers = np.unique(labels, return_inverse=True)
    if len(values) < 2:
        return [], None
    return [str(value) for value in values], numbers.astype(np.int32)


def conform(found, options: Options):
    """Brings images [N,H,W,C] to the stated resolution, channels and fit, if they are not there.

    Without a stated resolution arrays keep their height and width, square or not.

    Returns:
      The same array, or a memory-mapped one from the cache.
    """
    h, w, c = found.shape[1:]
    channels = options.channels or c
    fit, resolution = options.fit, options.resolution
    if resolution is None:
        fit, resolution = "keep", min(h, w)
    there = min(h, w) == resolution and (h == w or fit == "keep")
    if there and channels == c:
        return found
    from tada_jax.data import images  # here, because Pillow takes a while to import

    def fitted(image):
        return images.fit(
            image,
            resolution=resolution,
            fit=fit,
            channels=channels,
            background=options.background,
        )

    settings = repr((found.shape, resolution, fit, channels, tuple(options.background)))
    chunks = range(0, len(found), 256)
    content = [digest(np.ascontiguousarray(found[i : i + 256]).tobytes()) for i in chunks]

    def make(folder):
        shape = (len(found), *fitted(found[0]).shape)
        made = np.lib.format.open_memmap(
            folder / "images.npy", mode="w+", dtype=np.uint8, shape=shape
        )
        for i in range(len(found)):
            made[i] = fitted(found[i])
        made.flush()

    folder = cached(digest("conform 1", settings, *content), make)
    return np.load(folder / "images.npy", mmap_mode="r")
