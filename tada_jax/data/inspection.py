"""The data report: what a data set is, and what will go wrong with it, before any training."""

import dataclasses
import math
import time

import numpy as np

from tada_jax.data import classes
from tada_jax.data.base import Dataset, Split
from tada_jax.data.cache import digest
from tada_jax.system import logs

CHUNK = 1024  # images that are looked at together, ...
CHUNK_BYTES = 2**24  # ... if they are small enough
THUMBNAIL = 16  # side of the pictures that near duplicates are compared by, pixels
NEAR_RMS = 7.0  # of 0..255: root mean square difference of two thumbnails that look alike, ...
NEAR_MEAN = 30.0  # ... once this much of a difference in brightness is taken off; ...
NEAR_SHARE = 0.2  # ... of fainter ones such a share of their contrast, ...
LEAST_RMS = 0.6  # ... but as much as rounding makes
NEAR_BITS = 16  # of 64 that the hashes of images that look alike may differ in
STEP = 4.0  # of 0..255: smaller steps are noise to the difference hash
BANDS = 4  # of 16 bits: hashes that differ in less than 4 of 64 bits share one
CROWD = 256  # images in one band that are all compared; of more, only neighbours in brightness
NEIGHBOURS = 32
WAITING = 2**18  # candidates that are collected before they are compared, ...
COMPARED = 4096  # ... this many at once
NEAR_EXAMPLES = 3
CLASSES_SHOWN, CLASSES_A_LINE = 100, 10
LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # of RGB (ITU-R 601)
ENOUGH_HELD_OUT = 20  # images: the advice asks for as many
FEWEST_HELD_OUT = 10  # with which anything can be measured


@dataclasses.dataclass(frozen=True, eq=False)
class Inspection:
    """What was found; pairs are positions in the training images followed by the held-out ones.

    Attributes:
      facts: (name, value) of each line of the report.
      advice: one line for each thing that will go wrong, with its remedy.
      exact: int [n,2], images with equal pixels: each with the first of its kind.
      near: int [n,2], pairs that look alike; none of them exact.
      mirrored: int [n,2], other pairs that look alike once one of them is mirrored.
      crowded: whether there were so many alike that not all pairs were compared.
    """

    facts: tuple[tuple[str, str], ...]
    advice: tuple[str, ...]
    exact: np.ndarray
    near: np.ndarray
    mirrored: np.ndarray
    crowded: bool

    def lines(self) -> list[str]:
        """The report as aligned lines of text."""
        width = max(len(name) for name, _ in self.facts)
        return [f"{name:<{width}}  {value}" for name, value in self.facts]


def inspect(dataset: Dataset, *, batch_size: int) -> Inspection:
    """Looks at every image of a data set.

    Args:
      dataset: images may be memory-mapped: they are read once, in pieces.
      batch_size: with which it will be trained on.

    Returns:
      An `Inspection`.
    """
    seen = _Seen(dataset)
    exact = _exact(seen.digests)
    near, mirrored, complete = _near(seen)
    facts = [*_describe(dataset, seen), *_alike(seen, exact, near, mirrored, complete)]
    advice = _advise(dataset, seen, batch_size, exact, near, mirrored)
    return Inspection(tuple(facts), tuple(advice), exact, near, mirrored, not complete)


def alike(images, *, mirrored=False):
    """Which images of a set look alike, by the rules of the report.

    Args:
      images: uint8 [N,H,W,C], N at least 1.
      mirrored: whether those count too that look alike once one of them is mirrored.

    Returns:
      int [P,2], positions.
    """
    none = images[:0]
    split, empty = Split(images, None), Split(none, None)
    seen = _Seen(Dataset("", split, empty, 0, ""))
    near, turned, _ = _near(seen)
    return np.concatenate([_exact(seen.digests), near, *([turned] if mirrored else [])])


def _straddling(seen, pairs):
    """How many pairs lie between training and held-out images."""
    return int(((pairs < seen.train).sum(axis=1) == 1).sum())


class _Seen:
    """What one pass over all images leaves: about a kilobyte each."""

    def __init__(self, dataset):
        splits = (dataset.train.images, dataset.test.images)
        self.train = len(splits[0])
        self.count = sum(map(len, splits))
        h, w, channels = self.shape = splits[0].shape[1:]
        self.channels = channels
        small_h, small_w = min(THUMBNAIL, h), min(THUMBNAIL, w)
        self.digests = np.empty(self.count, "U32")
        self.hashes = np.empty(self.count, np.uint64)
        self.mirrored = np.empty(self.count, np.uint64)  # hashes of the mirrored images
        self.thumbnails = np.empty((self.count, channels, small_h, small_w), np.uint8)
        self.constant = np.empty(self.count, bool)
        self.colourless = np.empty(self.count, bool)
        histogram = np.zeros((channels, 256), np.int64)
        rows, columns = _averaging(h, small_h), _averaging(w, small_w)
        hash_rows, hash_columns = _averaging(h, 8), _averaging(w, 9)
        luma = _of_luma(channels)
        chunk = max(1, min(CHUNK, CHUNK_BYTES // (h * w * channels)))
        progress = logs.Progress(self.count, unit="report: image")
        started, at = time.monotonic(), 0
        for images in splits:
            for start in range(0, len(images), chunk):
                x = np.ascontiguousarray(images[start : start + chunk])
                here = slice(at, at + len(x))
                self.digests[here] = [digest(image.tobytes()) for image in x]
                self.constant[here] = (x == x[:, :1, :1]).all((1, 2, 3))
                self.colourless[here] = (x == x[..., :1]).all((1, 2, 3))
                planes = np.ascontiguousarray(np.moveaxis(x, 3, 1))  # [n,C,H,W]
                for c in range(channels):  # exact, which sums of float32 are not
                    histogram[c] += np.bincount(planes[:, c].ravel(), minlength=256)
                planes = planes.astype(np.float32)
                self.thumbnails[here] = np.round(_means(planes, rows, columns))
                grey = _means(planes, hash_rows, hash_columns)  # [n,C,8,9]
                grey = np.tensordot(grey, luma, (1, 0))  # [n,8,9]; JPEG keeps brightness best
                self.hashes[here] = _hash(grey)
                self.mirrored[here] = _hash(grey[:, :, ::-1])
                at += len(x)
                seconds = time.monotonic() - started
                if seconds > 2:
                    progress.update(at, f"{at / seconds:,.0f} images/s", seconds / at)
        progress.end()
        values = np.arange(256)
        pixels = self.count * h * w
        self.mean = histogram @ values / pixels
        self.std = np.sqrt(np.maximum(histogram @ values**2 / pixels - self.mean**2, 0))


def _means(planes, rows, columns):
    """[n,C,h,w] of [n,C,H,W]: means over pieces, by two plain products; batched ones are slow."""
    n, c, h, w = planes.shape
    x = (planes.reshape(-1, w) @ columns.T).reshape(n, c, h, -1)
    x = np.ascontiguousarray(x.swapaxes(2, 3)).reshape(-1, h) @ rows.T
    return x.reshape(n, c, len(columns), -1).swapaxes(2, 3)


def _hash(grey):
    """uint64 [n] of [n,8,9]: whether a pixel is brighter than the one to its left."""
    bits = np.packbits(grey[:, :, 1:] > grey[:, :, :-1] + STEP, axis=None)
    return bits.view(np.uint64)


def _averaging(size, small):
    """float32 [small,size]: means over `small` equal pieces of a line of `size` pixels."""
    edges = np.linspace(0, size, small + 1)
    pixels = np.arange(size)
    overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    return (np.clip(overlap, 0, 1) * (small / size)).astype(np.float32)


def _exact(digests):
    """Pairs (first of its kind, another) of equal images."""
    _, first, inverse = np.unique(digests, return_index=True, return_inverse=True)
    others = np.flatnonzero(first[inverse] != np.arange(len(digests)))
    return np.stack([first[inverse[others]], others], axis=1)


def _near(seen):
    """(pairs that look alike, other pairs that do once one is mirrored, whether all were compared).

    Candidates are images whose difference hashes (is a pixel of a 9x8 thumbnail brighter than
    the one to its left?) share 16 bits and differ in few; of these the thumbnails decide. Of exact
    duplicates only the first takes part.
    """
    _, unique = np.unique(seen.digests, return_index=True)
    unique.sort()
    count = len(unique)
    # Every image takes part twice, the second time mirrored: entry i + count.
    hashes = np.concatenate([seen.hashes[unique], seen.mirrored[unique]])
    thumbnails = seen.thumbnails[unique]
    brightness = thumbnails.mean(axis=(1, 2, 3), dtype=np.float32)
    brightness = np.concatenate([brightness, brightness])
    plain, mirrored, complete = [np.zeros((0, 2), int)], [np.zeros((0, 2), int)], True

    def compare(candidates):
        a, b = np.sort(np.concatenate(candidates), axis=1).T
        possible = (
            (a < count)  # two mirrored images are as alike as the two themselves
            & (a != b - count)
            & (np.bitwise_count(hashes[a] ^ hashes[b]) <= NEAR_BITS)
            & (np.abs(brightness[a] - brightness[b]) < NEAR_MEAN)
        )
        a, b = a[possible], b[possible]
        for found, chosen in ((plain, b < count), (mirrored, b >= count)):
            i, j = a[chosen], b[chosen] % count
            close = np.zeros(len(i), bool)
            for start in range(0, len(i), COMPARED):
                here = slice(start, start + COMPARED)
                close[here] = _close(thumbnails[i[here]], thumbnails[j[here]], found is mirrored)
            found.append(np.sort(np.stack([i[close], j[close]], axis=1), axis=1))

    for band in range(BANDS):
        bits = (hashes >> np.uint64(16 * band)) & np.uint64(0xFFFF)
        order = np.lexsort((brightness, bits))
        runs = np.split(order, np.flatnonzero(np.diff(bits[order].astype(int))) + 1)
        candidates, waiting = [], 0
        for run in runs:
            if run.min() >= count or len(run) < 2:
                continue
            if len(run) <= 2 * CROWD:
                i, j = np.triu_indices(len(run), 1)
            else:
                complete = False
                i = np.repeat(np.arange(len(run)), 2 * NEIGHBOURS)
                j = i + np.tile(np.arange(1, 2 * NEIGHBOURS + 1), len(run))
                i, j = i[j < len(run)], j[j < len(run)]
            candidates.append(np.stack([run[i], run[j]], axis=1))
            waiting += len(i)
            if waiting > WAITING:
                compare(candidates)
                candidates, waiting = [], 0
        if candidates:
            compare(candidates)
    plain, mirrored = (np.unique(np.concatenate(pairs), axis=0) for pairs in (plain, mirrored))
    # Symmetric images that look alike do so mirrored as well.
    known = np.isin(mirrored @ (count, 1), plain @ (count, 1))
    return unique[plain], unique[mirrored[~known]], complete


def _close(a, b, mirrored):
    """Whether thumbnails, uint8 [n,C,h,w], look alike, but for a little brightness."""
    b = b[..., ::-1] if mirrored else b
    apart = a.astype(np.float32) - b
    near = apart.var((1, 2, 3)) < NEAR_RMS**2
    # Luma, since formats such as JPEG keep colours worse than that.
    light, contrast = _luma(apart).var((1, 2)), np.minimum(*(_luma(x).var((1, 2)) for x in (a, b)))
    return near & (light < np.maximum(NEAR_SHARE**2 * contrast, LEAST_RMS**2))


def _luma(thumbnails):
    """[n,C,h,w] -> [n,h,w]."""
    return np.einsum("nchw,c->nhw", thumbnails, _of_luma(thumbnails.shape[1]))


def _of_luma(channels):
    """The weights of the channels."""
    return LUMA[-channels:] / LUMA[-channels:].sum()


def _describe(dataset, seen):
    """Facts about the whole."""
    h, w, c = seen.shape
    size = seen.count * h * w * c
    yield "data", dataset.source
    held = seen.count - seen.train
    yield "images", f"{seen.train:,} training, {held:,} held out, {h}x{w}x{c}, {_bytes(size)}"
    yield (
        "values",
        f"mean {_numbers(seen.mean)}, standard deviation {_numbers(seen.std)}, of 0..255"
        + (f"; {seen.constant.sum():,} of a single colour" if seen.constant.any() else ""),
    )
    reading = dataset.reading
    if reading is not None:
        yield "stored as", ", ".join(f"{count:,} {mode}" for mode, count in reading.modes.items())
        yield "stored sizes", _sizes(reading, seen.shape)
        for line in reading.skipped[:5]:
            yield "skipped", line
        if len(reading.skipped) > 5:
            yield "skipped", f"and {len(reading.skipped) - 5:,} more"
        if reading.other_files:
            yield "other files", f"{reading.other_files}: passed over, by their names no images"
    yield from _classes(classes.of(dataset))


def _sizes(reading, shape):
    sizes = reading.sizes
    shorter = sizes.min(axis=1)
    middle = np.argsort(sizes.prod(axis=1))[len(sizes) // 2]
    small, large = sizes.min(axis=0), sizes.max(axis=0)
    words = ["x".join(map(str, small))]
    if (small != large).any():
        spans = [f"{a} to {b}" if a != b else f"{a}" for a, b in zip(small, large)]
        words = [f"heights {spans[0]}, widths {spans[1]}"]
        words.append(f"median {'x'.join(map(str, sizes[middle]))} (height x width)")
    enlarged = int((shorter < min(shape[:2])).sum())
    reshaped = int((sizes[:, 0] * shape[1] != sizes[:, 1] * shape[0]).sum())
    if enlarged:
        words.append(f"{enlarged:,} enlarged")
    if reshaped:
        words.append(f"{reshaped:,} {_done(reading)}")
    return ", ".join(words)


def _done(reading):
    return "padded" if reading.fit == "pad" else "cropped"


def _kept(sizes, shape):
    """The share of each image [N] that cropping keeps, or of its place that is not padded."""
    aspect = sizes[:, 0] * shape[1] / (sizes[:, 1] * shape[0])
    return np.minimum(aspect, 1 / aspect)


def _classes(known):
    """How each class is numbered and called, and its training images, some classes a line."""
    if not known:
        yield "classes", "none"
        return
    words = [f"{one.title.removeprefix('class ')} ({one.train:,})" for one in known]
    if len(words) > CLASSES_SHOWN:
        words = [*words[: CLASSES_SHOWN - 1], f"... {words[-1]}"]
    lines = [words[i : i + CLASSES_A_LINE] for i in range(0, len(words), CLASSES_A_LINE)]
    yield "classes", f"{len(known):,}, as number: name (training images)"
    yield from (("", ", ".join(line)) for line in lines)


def _alike(seen, exact, near, mirrored, complete):
    for name, pairs in (("equal images", exact), ("alike", near), ("mirrored", mirrored)):
        if not len(pairs):
            yield name, "none"
            continue
        across = _straddling(seen, pairs)
        some = ", ".join(f"{a}={b}" for a, b in pairs[:NEAR_EXAMPLES].tolist())
        across = f", {across:,} of them between training and held-out images" if across else ""
        yield name, f"{len(pairs):,} pairs{across}; as numbers {some}"
    if not complete:
        yield "", "more than could all be compared look the same at 9x8 pixels"


def _advise(dataset, seen, batch_size, exact, near, mirrored):
    """What will go wrong."""
    held = seen.count - seen.train
    side = min(seen.shape[:2])
    if seen.train < 50:
        yield (
            f"{seen.train} training images will be memorised whatever is done: collect some "
            "hundreds, or fine-tune another run (config.init.workdir)"
        )
    if batch_size > seen.train:
        yield (
            f"a batch of {batch_size} holds every one of the {seen.train} training images more "
            "than once: set a smaller config.train.batch_size"
        )
    if held < ENOUGH_HELD_OUT:
        yield (
            f"{held} held-out images are few: a noisy loss; "
            if held
            else "no image is held out, so memorisation cannot be seen: "
        ) + _more_held_out(seen.count)
    straddling = _straddling(seen, exact) + _straddling(seen, near)
    if straddling:
        yield (
            f"{straddling:,} pairs of equal or similar images lie between training and "
            "held-out images, whose loss will look better than it is: remove duplicates"
        )
    flipped = _straddling(seen, mirrored)
    if flipped:
        yield (
            f"{flipped:,} images are the mirror images of others across training and held-out "
            "images, whose loss will look better than it is where training flips images "
            "(augment.xflip_p): remove one of each"
        )
    repeated = len(np.unique(np.concatenate([exact, near])))  # images, since pairs grow faster
    if repeated > 0.1 * seen.count:
        yield (
            f"{repeated:,} of {seen.count:,} images are equal or alike to another: the network "
            "will see, and remember, these most"
        )
    if seen.constant.mean() > 0.01:
        yield f"{seen.constant.sum():,} images are of a single colour: remove them if by mistake"
    if seen.channels == 3 and seen.colourless.all():
        yield "all images are grey, stored as RGB: set config.data.channels=1"
    if side > 256:
        square = "" if len(set(seen.shape[:2])) == 1 else ", with config.data.fit=crop"
        yield (
            f"{side}-pixel images need very much memory and time: set config.data.resolution=64, "
            f"or 256 on large accelerators{square}"
        )
    reading = dataset.reading
    if reading is not None:
        enlarged = (reading.sizes.min(axis=1) < side).mean()
        if enlarged > 0.2:
            yield (
                f"{100 * enlarged:.0f}% of the images are enlarged to {side} pixels and will look "
                "soft: set a smaller config.data.resolution"
            )
        narrow = (_kept(reading.sizes, seen.shape) < 0.5).mean()
        if narrow > 0.02:
            remedy = "" if reading.fit == "pad" else ", or set config.data.fit=pad"
            yield (
                f"{100 * narrow:.0f}% of the images are so long or narrow that more than half of "
                f"each is {_done(reading)}: cut them by hand{remedy}"
            )
    if dataset.num_classes:
        splits = {"train", "training", "test", "val", "valid", "validation"}
        if set(map(str.lower, dataset.class_names)) <= splits and dataset.class_names:
            yield (
                f"the classes are called {', '.join(dataset.class_names)}: if these are splits, "
                "name one of the folders in config.data.path"
            )
        yield from _advise_on_classes(classes.of(dataset), held)


def _more_held_out(count):
    """What to do where too few of so many images are held out."""
    fraction = math.ceil(100 * ENOUGH_HELD_OUT / count) / 100
    if count < 2 * FEWEST_HELD_OUT:
        return (
            f"of {count} images too few can be held out to measure anything, which takes "
            f"{FEWEST_HELD_OUT}: collect more"
        )
    if fraction > 0.5:
        return (
            f"{count} images are too few to hold out {ENOUGH_HELD_OUT}: collect more, or set "
            "config.data.test_fraction=0.5 for a rough look"
        )
    return f"set config.data.test_fraction={fraction:g}, or give the data a larger test split"


def _advise_on_classes(known, held):
    """Classes that cannot be learnt, or of which nothing can be measured."""
    absent = [one for one in known if not one.train]
    if absent:
        yield (
            f"{len(absent):,} of {len(known):,} classes have no training image "
            f"({_listed(absent)}), so that a network cannot learn them: add images of them, or "
            "raise config.data.train_size if it is set"
        )
    unseen = [one for one in known if one.train and not one.held_out]
    if unseen and held:
        size = min((one.train for one in unseen if one.train > 1), default=None)
        yield (
            f"{len(unseen):,} of {len(known):,} classes have no held-out image "
            f"({_listed(unseen)}), so that memorisation of them cannot be seen: add images of them"
            + (
                f", or raise config.data.test_fraction (1 of {size} is held out from "
                f"{math.ceil(100 / size) / 100:g} on)"
                if size
                else ""
            )
        )
    counts = [one.train for one in known if one.train]
    if max(counts) > 10 * min(counts):
        yield (
            f"the largest class has {max(counts):,} training images, the smallest "
            f"{min(counts):,}: config.data.order=balanced shows both equally often"
        )


def _listed(some):
    return classes.listed(one.name for one in some)


def _bytes(size):
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if size < 1024 or unit == "GiB":
            return f"{size:.1f} {unit}" if unit != "bytes" else f"{size} bytes"
        size /= 1024


def _numbers(values):
    return "/".join(f"{value:.0f}" for value in values)
