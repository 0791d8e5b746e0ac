"""What a data source is asked for, what it returns, and the held-out split of those without one."""

import dataclasses
import functools

import numpy as np

from tada_jax.data.cache import digest
from tada_jax.system.errors import UserError

FITS = ("crop", "pad", "keep")
UNREADABLE = ("refuse", "skip")
COLORS = ("stored", "srgb")
PAGES = ("first", "all", "channels")
MAX_PIXELS = 2**27  # of one image: 16384 x 8192
MAX_FILE_BYTES = 2**30  # of one image file, also when inflated


@dataclasses.dataclass(frozen=True)
class Options:
    """What a source may be asked for; the fields of the configuration's section `data`.

    Attributes:
      path: where the data lie, for the sources that take one; None to look for them.
      test_fraction: share to hold out, for sources without a test split of their own.
      seed: of the held-out split.
      resolution: shorter side in pixels; None for that of the data.
      channels: 1 (grey) or 3 (RGB); None for that of the data.
      fit: how an image that is not square becomes one: "crop" its centre, "pad" it with the
        background, which enlarges no image; or "keep" its aspect, which all images must then share.
      background: RGB 0..255, behind transparent pixels and around padded images.
      range: which values become black and white: "auto", by the values of the whole set; "full",
        all that their type can hold; or "LOW:HIGH". See `levels`.
      color: "stored", the numbers in the files whatever their colour profiles, or "srgb", into
        which those are turned. See `colour`.
      pages: of files with several pages or frames: the "first", "all", each as an image; or three
        as the "channels" of one.
      labels: where the classes of images in folders and zips come from, one of `labels.LABELS`.
      unreadable: what an image that cannot be read does: "refuse" the data set, or "skip".
      allow_download: False forbids the network.
      name: what follows the colon in the data set's name, as "beans" in "tfds:beans".
    """

    path: str | None = None
    test_fraction: float = 0.1
    seed: int = 0
    resolution: int | None = None
    channels: int | None = None
    fit: str = "crop"
    background: tuple[int, int, int] = (255, 255, 255)
    range: str = "auto"
    color: str = "stored"
    pages: str = "first"
    labels: str = "auto"
    unreadable: str = "refuse"
    allow_download: bool = True
    name: str = ""


def not_there(path, what: str = "does not exist") -> UserError:
    """The refusal of a `data.path` at which there is nothing, or nothing that was meant."""
    return UserError(
        f"data.path={path} {what}; a run whose data have moved goes on with --config.data.path of "
        "where they are"
    )


def files_alone(options: Options, source) -> None:
    """Refuses options that are of image files, where a source has none.

    Raises:
      UserError: naming the option and the source.
    """
    for field in ("pages", "color"):
        asked = getattr(options, field)
        if asked != getattr(Options, field):
            raise UserError(f"data.{field}={asked} is of image files, and {source} has none")


class Rows:
    """Some rows of a memory-mapped array, in some order; read from disk only when indexed."""

    def __init__(self, base, indices):
        self._base, self._indices = base, np.asarray(indices)
        self.shape, self.dtype = (len(self._indices), *base.shape[1:]), base.dtype

    def __len__(self):
        return len(self._indices)

    def __getitem__(self, index):
        return np.asarray(self._base[self._indices[index]])

    def __array__(self, dtype=None, copy=None):
        return np.asarray(self[:], dtype)

    def take(self, indices):
        """Rows of these rows."""
        return Rows(self._base, self._indices[indices])


class Joined:
    """The rows of two arrays or `Rows` of one shape, one after the other; read when indexed."""

    def __init__(self, first, second):
        self._parts = first, second
        self.shape = (len(first) + len(second), *first.shape[1:])
        self.dtype = first.dtype

    def __len__(self):
        return self.shape[0]

    def __getitem__(self, index):
        first, second = self._parts
        if isinstance(index, slice):
            index = np.arange(*index.indices(len(self)))
        index = np.asarray(index)
        rows = np.empty((*index.shape, *self.shape[1:]), self.dtype)
        inside = index < len(first)
        rows[inside], rows[~inside] = first[index[inside]], second[index[~inside] - len(first)]
        return rows


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
    """Images, uint8 [N,H,W,C], and their labels, int32 [N], or None where there are none.

    Images are an array in memory, a memory-mapped one, or `Rows` of one; all three can be indexed
    by a slice or an array of integers, which gives an array in memory.
    """

    images: np.ndarray | Rows
    labels: np.ndarray | None

    def take(self, indices: np.ndarray) -> "Split":
        """Returns only the examples at `indices`, in that order; what is on disk stays there."""
        labels = None if self.labels is None else self.labels[indices]
        if isinstance(self.images, Rows):
            return Split(self.images.take(indices), labels)
        if isinstance(self.images, np.memmap):
            return Split(Rows(self.images, indices), labels)
        return Split(self.images[indices], labels)


@dataclasses.dataclass(frozen=True, eq=False)
class Reading:
    """What was met while image files were read, for the data report.

    Attributes:
      sizes: int32 [N,2], height and width of every image that was read, upright, before resizing.
      modes: how many images there were of each kind, as {"RGB": 90, "RGBA": 10}.
      skipped: one line for each image that could not be read, as "cat/7.png: truncated".
      other_files: what was passed over because its name is not that of an image, by ending, as
        ".heic 40, .csv 1".
      levels: what was said of the values that became black and white; "" where it is obvious.
      fit: how images of other aspects were made to fit, as of `Options`.
    """

    sizes: np.ndarray
    modes: dict[str, int]
    skipped: tuple[str, ...] = ()
    other_files: str = ""
    levels: str = ""
    fit: str = "crop"


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """Two splits, and where they come from.

    Attributes:
      name: short, for titles.
      train, test: the splits; `test` is what is held out, and may be empty.
      num_classes: 0 if unlabelled.
      source: one line that says where the data came from and how many there are.
      class_names: of the labels, if they have names.
      reading: what reading the files brought to light, if files were read.
      standard_names: whether every copy of the data set has these names, so that they tell no two
        of them apart.
    """

    name: str
    train: Split
    test: Split
    num_classes: int
    source: str
    class_names: tuple[str, ...] = ()
    reading: Reading | None = None
    standard_names: bool = False

    @functools.cached_property
    def digest(self) -> str:
        """A name for the training images and their labels."""
        images, labels = self.train.images, self.train.labels
        chunks = (
            np.ascontiguousarray(images[start : start + 1024]).tobytes()
            for start in range(0, len(images), 1024)
        )
        labels = b"" if labels is None else np.ascontiguousarray(labels).tobytes()
        names = () if self.standard_names else self.class_names
        return digest(str(images.shape), labels, repr(names), *chunks)

    @functools.cached_property
    def held_out_digest(self) -> str:
        """A name for the held-out images."""
        images = np.ascontiguousarray(self.test.images)
        return digest(str(images.shape), images.tobytes())


def hold_out(examples: Split, fraction: float, seed: int) -> tuple[Split, Split]:
    """Splits off `fraction` of the examples, as evenly over the classes as whole images allow.

    Round(fraction N) images in all: each class gives the whole part of its share, and the classes
    with the largest remainders (drawn by `seed` where they are equal) one more. The last image of
    a class is never held out, so that the total falls short where most classes have but one.

    Args:
      examples: the `Split`; unlabelled examples count as one class.
      fraction: at least 0, less than 1.
      seed: of the draw.

    Returns:
      (train, test); both keep the examples' order.
    """
    rng = np.random.default_rng((seed, 0))  # stream 0; `load` draws training subsets from stream 1
    count = len(examples.images)
    labels = np.zeros(count) if examples.labels is None else examples.labels
    classes, sizes = np.unique(labels, return_counts=True)
    held_out = np.zeros(count, bool)
    members = [rng.permutation(np.flatnonzero(labels == label)) for label in classes]
    for chosen, n in zip(members, _apportion(fraction, sizes, rng)):
        held_out[chosen[:n]] = True
    return examples.take(np.flatnonzero(~held_out)), examples.take(np.flatnonzero(held_out))


def _apportion(fraction, sizes, rng):
    """How many of each class to hold out, int [K], by largest remainders; `sizes` int [K]."""
    shares = np.round(fraction * sizes, 9)  # .1 x 30 is 3, and not a little more
    counts = np.floor(shares).astype(int)
    left = round(fraction * sizes.sum()) - counts.sum()
    tie = rng.permutation(len(sizes))
    order = np.lexsort((tie, counts - shares))  # largest remainder first
    can_give = [i for i in order if counts[i] < min(shares[i], sizes[i] - 1)]
    counts[can_give[:left]] += 1
    return counts


def spread(available, wanted):
    """Indices of at most `wanted` examples, evenly over all: sets are often in order of class."""
    count = min(available, wanted)
    return np.arange(count) * available // count
