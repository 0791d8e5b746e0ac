"""Images in a folder or a zip; sub-folders are classes. Archives are read in memory."""

import collections
import contextlib
import dataclasses
import os
import pathlib

import numpy as np

from tada_jax.data import classes, decoding, images, splits
from tada_jax.data.base import Dataset, Options, Reading, Split, hold_out
from tada_jax.data.listing import by_ending, list_files
from tada_jax.system.errors import UserError
from tada_jax.system.paths import expanded


def load(options: Options) -> Dataset:
    """Loads the images in the folder or zip at `options.path`, `test_fraction` held out.

    Images are sorted by their names relative to the root; their classes are decided by `labels`,
    in natural order (2 before 10). Folders `train` and `test` (or `val`) are a split of their own:
    `splits`.

    Without `options.resolution`, images of one common size keep it, up to the `fit`; else it is the
    largest power of two, at least 8, that does not exceed the median of the shorter sides (for
    "pad": longer sides). Without `options.channels` there is one if every image is grey, else 3.

    Returns:
      A Dataset; its images, uint8 [N,H,W,C], stay on disk in the cache.

    Raises:
      UserError: nothing there, or no images; an archive with suspicious names; images that cannot
        be read, unless they are to be skipped; images of several aspects that are to be kept.
    """
    path = expanded(options.path)
    with contextlib.ExitStack() as stack:
        files = list_files(path, stack)
        if not files.names:
            others = (
                f"only other files ({by_ending(files.others)})"
                if files.others
                else "nothing at all"
            )
            raise UserError(
                f"data.path={path} holds no images, {others}; "
                f"images are files that end in {', '.join(images.ENDINGS)}"
            )
        pixels, facts = decoding.decoded(files, options, path)
        try:
            divided, of, tellers = splits.arrange(
                facts["names"], files.others, options.labels, files.read, files.told
            )
        except UserError as error:
            raise UserError(f"data.path={path}: {error}") from error
    skipped = tuple(facts["skipped"])
    if skipped and options.unreadable == "refuse":
        raise decoding.unreadable(path, skipped, len(files.names))

    clause = f"; {of.clause}" if of.clause else ""
    by_folders = options.labels == "folders" or (options.labels == "auto" and not tellers)
    if by_folders and files.told is None:
        clause += _unread_folders(files.names, facts["names"])
    if files.runs:
        clause += f"; left out, since they are runs: {classes.listed(files.runs)}"
    # What is left out is no image of the set, though it has been read.
    used = np.arange(len(facts["names"])) if divided is None else divided.order
    used = used if of.kept is None else used[of.kept]
    by_file = Split(used, of.numbers)  # pages of a file are on one side
    if divided is None or not divided.held_out:
        parts = hold_out(by_file, options.test_fraction, options.seed)
    else:
        held_out = np.isin(used, divided.order[len(divided.train) :])
        parts = (by_file.take(np.flatnonzero(part)) for part in (~held_out, held_out))
    pages = np.asarray(facts["pages"])
    train, test = (_pixels(part, pixels, pages) for part in parts)
    clause += "" if divided is None else f"; {divided.clause}"
    clause = "".join(f"; {said}" for said in (*files.said, *facts["said"])) + clause
    others = [name for name in files.others if name not in tellers or not of.names]
    reading = Reading(
        np.asarray(facts["sizes"], np.int32)[used].repeat(pages[used], 0),
        dict(collections.Counter(facts["modes"][i] for i in used).most_common()),
        skipped,
        by_ending(others),
        facts["levels"],
        options.fit,
    )
    name = path.resolve().name
    return Dataset(
        name if path.is_dir() else pathlib.Path(name).stem,
        train,
        test,
        len(of.names),
        f"{name}: {len(train.images):,} training + {len(test.images):,} held-out images, "
        + _describe(pixels.shape[1:], len(of.names), reading, options)
        + clause,
        of.names,
        reading,
    )


def _pixels(by_file: Split, pixels: np.ndarray, pages: np.ndarray) -> Split:
    """The images and labels of some files, given by their numbers.

    Args:
      by_file: whose images are numbers of files, int [M].
      pixels: uint8 [N,H,W,C], memory-mapped, file after file.
      pages: int [F], how many images are of each file.
    """
    starts, count = np.cumsum(pages) - pages, pages[by_file.images]
    within = np.arange(count.sum()) - (np.cumsum(count) - count).repeat(count)
    labels = None if by_file.labels is None else by_file.labels.repeat(count)
    rows = starts[by_file.images].repeat(count) + within
    return dataclasses.replace(Split(pixels, None).take(rows), labels=labels)


def _describe(shape, num_classes, reading, options) -> str:
    parts = ["x".join(map(str, shape))]
    if num_classes:
        parts[0] += f", {num_classes} classes"
    sizes = np.unique(reading.sizes, axis=0)
    if len(sizes) > 1 or tuple(sizes[0]) != shape[:2]:
        sizes = sizes[np.argsort(sizes.prod(axis=1), kind="stable")]
        ends = " .. ".join("x".join(map(str, size)) for size in sizes[[0, -1][: len(sizes)]])
        chosen = options.resolution is None and len(sizes) > 1
        parts.append(
            f"sizes {ends} fitted to {min(shape[:2])} by {options.fit!r}"
            + (" (data.resolution sets another)" if chosen else "")
        )
    if reading.levels:
        parts.append(reading.levels)
    if reading.skipped:
        parts.append(f"{len(reading.skipped):,} unreadable ones skipped")
    return "; ".join(parts)


def _unread_folders(listed: list[str], read: list[str]) -> str:
    """A clause on sub-folders in which no image can be read, for the source; "" if none."""
    before, after = splits.inside(listed), splits.inside(read)
    depth = len(os.path.commonprefix([name.split("/")[:-1] for name in before]))
    ways = ([name.split("/")[:-1] for name in some] for some in (before, after))
    there, left = ({parts[depth] for parts in some if len(parts) > depth} for some in ways)
    lost = sorted(there - left, key=classes.natural)
    return f"; no classes, since no image can be read: {classes.listed(lost)}" if lost else ""
