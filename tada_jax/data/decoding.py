"""The pixels of a set of image files, decoded once.

Whatever is there is listed and hashed, but for files that have not changed since (`manifest`); the
decoded images are kept in the cache under the hash of names, contents and settings, memory-mapped,
so that only the first run decodes. Sources are never written to.
"""

import collections
import concurrent.futures
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

from tada_jax.data import extras, images, levels
from tada_jax.data.base import Options
from tada_jax.data.cache import digest, load_cached
from tada_jax.data.listing import Files
from tada_jax.data.manifest import Manifest
from tada_jax.data.names import shown
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

    known = Manifest(path, files.lies_in)

    def fingerprint(name):
        stamp = known.stamp(name)
        try:
            found = digest(files.read(name))
        except ValueError as error:
            return f"unreadable: {error}"  # decoding will meet it again
        known.add(name, stamp, found)
        return found

    digests = {name: known.find(name) for name in files.names}
    changed = [name for name, found in digests.items() if found is None]
    digests.update(zip(changed, _threaded(fingerprint, changed, "hashing")))
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
        _decode(dataclasses.replace(files, read=read_the_same), options, path, folder)

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


def _decode(files: Files, options: Options, path: pathlib.Path, folder: pathlib.Path) -> None:
    """Decodes all images into `folder`: images.npy, uint8 [N,H,W,C], and facts.json."""
    skipped = {}  # name -> "name: reason"

    def header(name):
        found = images.inspect(files.read(name))
        if found.is_volume and options.pages == "first":
            raise ValueError(
                f"is a volume of {len(found.pages):,} slices, of which the first says little: "
                "data.pages=all makes an image of each"
            )
        return found

    def pixels(name):
        content, together = files.read(name), options.pages == "channels"
        made = [
            images.decode(
                content,
                resolution=resolution,
                channels=1 if together else shape[2],
                fit=options.fit,
                background=options.background,
                levels=found,
                page=page,
                color=options.color,
            )
            for page in taken[name]
        ]
        if together:
            if len(made) != shape[2]:
                raise ValueError(f"has {len(made)} pages: data.pages=channels takes {shape[2]}")
            made = [np.concatenate(made, -1)]
        for image in made:
            if image.shape != shape:
                raise ValueError(f"becomes {image.shape}, not the {shape} of its header")
        return made[0][None] if len(made) == 1 else np.stack(made)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what Pillow finds odd; what it cannot read is an error
        headers = dict(_readable(header, files.names, skipped, "inspecting"))
        if not headers or (skipped and options.unreadable == "refuse"):
            raise unreadable(path, list(skipped.values()), len(files.names))
        resolution, shape = _settle(headers, options, path)
        taken = {
            name: header.pages[:1] if options.pages == "first" else header.pages
            for name, header in headers.items()
        }
        found = levels.given(options.range)
        if options.range == "auto":
            found = _levels_of_set(files, headers, taken, path)
        rows = _readable(pixels, list(headers), skipped, "decoding")
        most = sum(map(len, taken.values()))
        names, pages = _write_rows(folder / "images.npy", rows, (most, *shape))
    if not names:
        raise unreadable(path, list(skipped.values()), len(files.names))
    facts = {
        "names": names,
        "sizes": [(headers[name].height, headers[name].width) for name in names],
        "modes": [headers[name].mode for name in names],
        "skipped": [skipped[name] for name in sorted(skipped)],
        "pages": pages,
        "levels": _clause(options.range, found),
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


def _levels_of_set(
    files: Files,
    headers: dict[str, images.Header],
    taken: dict[str, tuple[int, ...]],
    path: pathlib.Path,
) -> dict:
    """{type of grey values: `Levels`}, of all images whose files do not state which is white.

    Raises:
      UserError: if colours of 16 bits have but a few, of which the low byte would be lost.
    """

    def ends(name):
        content = files.read(name)
        lowest, highest = zip(*(images.extremes(content, page) for page in taken[name]))
        return min(lowest), max(highest)

    by_kind = collections.defaultdict(list)
    for name, header in headers.items():
        if header.high_bytes or (header.dtype and not header.states_white):
            by_kind["colours" if header.high_bytes else header.dtype].append(name)
    seen = levels.Extremes()
    for kind, names in by_kind.items():
        # In bytes, the first bright image tells that they are no mask.
        bright = {"uint8": 1, "colours": 15}.get(kind, np.inf)
        for _, (lowest, highest) in _readable(ends, names, {}, "measuring"):
            seen.add(kind, lowest, highest)
            if highest > bright:
                break
    _, highest = seen.of.pop("colours", (0, 255))
    if 0 < highest <= 15:
        raise UserError(
            f"data.path={path}: its colours of 16 bits stay below 4,096, as those of a camera of "
            "12 bits, and Pillow keeps the high byte of them: save them with 8 bits a channel"
        )
    return seen.levels()


def _clause(asked: str, found: levels.Levels | dict | None) -> str:
    """What is said of the values that become black and white; "" if there is nothing to say."""
    if isinstance(found, levels.Levels):
        return f"data.range={asked}: {found.black:,.6g} is black, {found.white:,.6g} white"
    return "; ".join(each.clause for each in (found or {}).values() if each.clause)


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


def _write_rows(
    file: pathlib.Path, rows: Iterable[tuple[str, np.ndarray]], shape: tuple[int, ...]
) -> tuple[list[str], list[int]]:
    """Writes images uint8 [pages,H,W,C] of files as a .npy of at most this shape [N,H,W,C].

    Returns:
      (names of the files, how many images are of each).
    """
    names, pages = [], []
    # Written, not mapped: on a full disk a mapped file ends the process without a word.
    with file.open("wb", buffering=2**20) as stream:

        def write_header(count):
            stream.seek(0)
            np.lib.format.write_array_header_1_0(
                stream, {"descr": "|u1", "fortran_order": False, "shape": (count, *shape[1:])}
            )

        write_header(shape[0])
        for name, row in rows:
            stream.write(np.ascontiguousarray(row))
            names.append(name)
            pages.append(len(row))
        write_header(sum(pages))  # as long as the first: numpy leaves room for any count
    return names, pages


def _settle(
    headers: dict[str, images.Header], options: Options, path: pathlib.Path
) -> tuple[int, tuple[int, int, int]]:
    """(resolution, shape of every image), where the options leave them open from the headers."""
    sizes = {(header.height, header.width) for header in headers.values()}
    side = max if options.fit == "pad" else min
    resolution = options.resolution
    if resolution is None:
        if len(sizes) == 1:
            resolution = side(*sizes)
        else:
            median = np.median([side(header.height, header.width) for header in headers.values()])
            resolution = max(8, 2 ** (int(median).bit_length() - 1))
    channels = options.channels
    if channels is None:
        grey = all(header.grey for header in headers.values()) and options.pages != "channels"
        channels = 1 if grey else 3
    elif channels == 1 and options.pages == "channels":
        raise UserError("data.pages=channels makes 3 channels: leave data.channels=1 out")
    shapes = {
        name: images.fitted_shape(
            header.height, header.width, resolution=resolution, fit=options.fit
        )
        for name, header in headers.items()
    }
    (common, count), *others = collections.Counter(shapes.values()).most_common()
    if others:
        odd = next(name for name, shape in shapes.items() if shape != common)
        raise UserError(
            f"data.path={path}: data.fit=keep needs images of one aspect, but {shown(odd)} would "
            f"become {shapes[odd][0]}x{shapes[odd][1]} and {count:,} others "
            f"{common[0]}x{common[1]}; "
            "pass --config.data.fit=crop or pad"
        )
    return resolution, (*common, channels)


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
