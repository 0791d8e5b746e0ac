"""The pixels of a set of image files, decoded once.

Whatever is there is listed and hashed, but for files that have not changed since (`manifest`); the
decoded images are kept in the cache under the hash of names, contents and settings, memory-mapped,
so that only the first run decodes. Sources are never written to.
"""

import collections
import concurrent.futures
import contextlib
import dataclasses
import itertools
import json
import os
import pathlib
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import PIL

from tada_jax.data import extras, fitting, images, levels
from tada_jax.data.base import Options
from tada_jax.data.cache import digest, load_cached
from tada_jax.data.fitting import Fit
from tada_jax.data.listing import Files
from tada_jax.data.manifest import Manifest
from tada_jax.data.names import shown
from tada_jax.data.read_ahead import Look, ReadAhead, Rows
from tada_jax.system.errors import UserError
from tada_jax.system.logs import Progress
from tada_jax.system.paths import to_json

_FORMAT_VERSION = "3"  # of the cached folders; to be raised whenever the same files give others
_NAMED = 5  # unreadable images named in an error
_BLOCK = 8  # images that a thread takes at once: more is quicker for small ones, but takes memory


def decoded(files: Files, options: Options, path: pathlib.Path) -> tuple[np.ndarray, dict]:
    """The images of files, from the cache if they are there.

    Args:
      files: with at least one image.
      options: how they are read, see `folder.load`.
      path: of the set, for errors.

    Returns:
      (pixels, uint8 [N,H,W,C], memory-mapped; facts about the files that were read, by key: names,
      sizes, modes, pages, and skipped, levels, said).

    Raises:
      UserError: see `folder.load`.
    """

    known, early = Manifest(path, files.lies_in), ReadAhead(options, path)
    with contextlib.closing(early), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what Pillow finds odd; what it cannot read is an error
        digests = {name: known.find(name) for name in files.names}
        changed = [name for name, found in digests.items() if found is None]

        def fingerprint(name):
            stamp = known.stamp(name)
            try:
                content = files.read(name)
            except ValueError as error:
                look = Look(reason=str(error)) if known.is_new else None
                return f"unreadable: {error}", look
            found = digest(content)
            known.add(name, stamp, found)
            return found, early.look(content) if known.is_new else None

        for name, (found, look) in zip(changed, _threaded(fingerprint, changed, "reading")):
            digests[name] = found
            if look is not None:
                early.add(name, look)
        known.save()
        settings = [options.resolution, options.channels, options.fit, list(options.background)]
        settings += [options.range, options.pages, options.color]
        key = digest(
            # What can be read, and how, depends on the libraries that are there.
            *(_FORMAT_VERSION, PIL.__version__, extras.versions(), to_json(settings)),
            *(part for name in files.names for part in (os.fsencode(name), digests[name])),
        )

        def read_the_same(name):
            content = files.read(name)
            if digest(content) != digests[name]:
                known.forget()  # or starting again would not help
                raise UserError(
                    f"data.path={path}: {shown(name)} changed while it was read; start again"
                )
            return content

        def make(folder):
            _decode(dataclasses.replace(files, read=read_the_same), early, options, path, folder)

        return load_cached(key, make, _read_decoded)


def unreadable(path: pathlib.Path, skipped: Iterable[str], total: int) -> UserError:
    """The error that names images that cannot be read, as "name: reason", of so many."""
    named = "; ".join(skipped[:_NAMED])
    more = f"; and {len(skipped) - _NAMED:,} more" if len(skipped) > _NAMED else ""
    return UserError(
        f"data.path={path}: {len(skipped):,} of {total:,} images cannot be read: {named}{more}. "
        "Mend or remove them, or pass --config.data.unreadable=skip"
    )


def _read_decoded(folder: pathlib.Path) -> tuple[np.ndarray, dict]:
    facts = json.loads((folder / "facts.json").read_text())
    pixels = np.load(folder / "images.npy", mmap_mode="r")
    files = {len(facts[key]) for key in ("names", "sizes", "modes", "pages")}
    if pixels.dtype != np.uint8 or len(files) > 1 or len(pixels) != sum(facts["pages"]):
        raise ValueError(f"{folder} is damaged")
    return pixels, facts


def _decode(
    files: Files, early: ReadAhead, options: Options, path: pathlib.Path, folder: pathlib.Path
) -> None:
    """Decodes all images into `folder`: images.npy, uint8 [N,H,W,C], and facts.json."""

    def look(name):
        try:
            return early.look(files.read(name))
        except ValueError as error:
            return Look(reason=str(error))

    def ends(name):
        content, pages = files.read(name), fitting.taken(headers[name], options)
        lowest, highest = zip(*(images.extremes(content, page) for page in pages))
        return min(lowest), max(highest)

    def pixels(name):
        return fitting.pixels(files.read(name), headers[name], options, fit)

    if len(early.headers) + len(early.skipped) != len(files.names):
        early.headers.clear()
        early.skipped.clear()
        for name, found in zip(files.names, _threaded(look, files.names, "reading")):
            early.add(name, found)
    headers, skipped = early.headers, dict(early.skipped)
    if not headers:  # of others all are decoded, so that every bad one is named at once
        raise unreadable(path, list(skipped.values()), len(files.names))
    resolution, shape = fitting.settle(headers, options, path)
    found = levels.given(options.range)
    if options.range == "auto":
        found = fitting.levels_of_set(
            headers, lambda names: _readable(ends, names, {}, "measuring"), path
        )
    fit, file = Fit(resolution, shape, found), folder / "images.npy"
    given = early.give(fit, file)
    if given is None:
        early.close()
        with contextlib.closing(Rows(file, shape)) as rows:
            for name, row in _readable(pixels, list(headers), skipped, "decoding"):
                rows.add(name, row)
        names, pages = rows.names, rows.pages
    else:
        names, pages, failed = given
        skipped |= failed
    if not names:
        raise unreadable(path, list(skipped.values()), len(files.names))
    facts = {
        "names": names,
        "sizes": [(headers[name].height, headers[name].width) for name in names],
        "modes": [headers[name].mode for name in names],
        "skipped": [skipped[name] for name in sorted(skipped)],
        "pages": pages,
        "levels": fitting.clause(options.range, found),
        "said": [
            *_about_pages([len(headers[name].pages) for name in names], options.pages),
            *_about_colours(sum(headers[name].other_colours for name in names), options.color),
        ],
    }
    (folder / "facts.json").write_text(to_json(facts))


def _about_colours(count: int, how: str) -> list[str]:
    """What is said of images with a colour profile that is not sRGB's; nothing without any."""
    have = f"{count:,} images have a colour profile other than sRGB"
    done = (
        "turned into it" if how == "srgb" else "which is not applied (data.color=srgb applies it)"
    )
    return [f"{have}, {done}"] if count else []


def _about_pages(pages: list[int], how: str) -> list[str]:
    """What is said of files with several pages or frames; nothing without any."""
    several = [count for count in pages if count > 1]
    if not several:
        return []
    whose = (
        f"{len(several):,} of {len(pages):,} files have pages or frames, {sum(several):,} in all"
    )
    done = {
        "first": "the first of each is taken (data.pages=all: each as an image)",
        "all": "each is an image, and those of a file are held out together",
        "channels": "those of a file are its channels",
    }
    return [f"{whose}: {done[how]}"]


def _readable(
    function: Callable[[str], Any], names: list[str], skipped: dict[str, str], verb: str
) -> Iterator[tuple[str, Any]]:
    """Yields (name, function(name)); where that is a ValueError, puts the reason in `skipped`."""

    def attempt(name):
        try:
            return function(name), None
        except ValueError as error:
            return None, f"{shown(name)}: {error}"

    for name, (result, reason) in zip(names, _threaded(attempt, names, verb)):
        if reason is None:
            yield name, result
        else:
            skipped[name] = reason


def _threaded(function: Callable, names: list[str], verb: str) -> Iterator:
    """Yields function(name) for every name, in order; threads run a little ahead.

    Threads suffice, since Pillow, hashing and inflating let others run meanwhile, and processes
    cannot be forked safely once JAX has started.
    """
    workers = min(16, os.cpu_count() or 1)
    blocks = (names[i : i + _BLOCK] for i in range(0, len(names), _BLOCK))
    progress, start = Progress(len(names), unit=verb), time.monotonic()
    pool = concurrent.futures.ThreadPoolExecutor(workers)
    ahead, done = collections.deque(), 0
    try:
        while done < len(names):
            for block in itertools.islice(blocks, 2 * workers - len(ahead)):
                ahead.append(pool.submit(lambda block: [function(name) for name in block], block))
            results = ahead.popleft().result()
            done += len(results)
            seconds = time.monotonic() - start
            if seconds > 1:
                progress.update(done, f"{done / seconds:,.0f} images/s", seconds / done)
            yield from results
    finally:
        pool.shutdown(cancel_futures=True)
        progress.end()
