"""What the images of a set become: all of one shape, their values by one range."""

import collections
import dataclasses
import pathlib
from collections.abc import Callable, Iterable

import numpy as np
from PIL import Image

from tada_jax.data import images, levels, rasters
from tada_jax.data.base import Options
from tada_jax.data.levels import Levels
from tada_jax.data.names import shown
from tada_jax.system.errors import UserError

USUAL = {"uint8": levels.full("uint8")}  # the levels of nearly every set, unless it is of masks

Opened = Image.Image | rasters.Raster | None


@dataclasses.dataclass(frozen=True)
class Fit:
    """What `pixels` makes of every image.

    Attributes:
      resolution: as of `images.resize`.
      shape: [H,W,C] of every image.
      levels: as of `images.decode`.
    """

    resolution: int
    shape: tuple[int, int, int]
    levels: Levels | dict[str, Levels] | None


def inspect(content: bytes, options: Options) -> tuple[images.Header, Opened]:
    """`images.inspect_and_open`.

    Raises:
      ValueError: one short reason; also for a volume of which a page would be taken.
    """
    found, opened = images.inspect_and_open(content)
    if found.is_volume and options.pages == "first":
        raise ValueError(
            f"is a volume of {len(found.pages):,} slices, of which the first says little: "
            "data.pages=all makes an image of each"
        )
    return found, opened


def taken(header: images.Header, options: Options) -> tuple[int, ...]:
    """The pages of a file that are read."""
    return header.pages[:1] if options.pages == "first" else header.pages


def pixels(
    content: bytes, header: images.Header, options: Options, fit: Fit, opened: Opened = None
) -> np.ndarray:
    """The images in a file, uint8 [pages,H,W,C]; `opened` is what `inspect` gave.

    Raises:
      ValueError: one short reason.
    """
    together = options.pages == "channels"
    made = [
        images.decode(
            content,
            resolution=fit.resolution,
            channels=1 if together else fit.shape[2],
            fit=options.fit,
            background=options.background,
            levels=fit.levels,
            page=page,
            color=options.color,
            opened=opened,
        )
        for page in taken(header, options)
    ]
    if together:
        if len(made) != fit.shape[2]:
            raise ValueError(f"has {len(made)} pages: data.pages=channels takes {fit.shape[2]}")
        made = [np.concatenate(made, -1)]
    for image in made:
        if image.shape != fit.shape:
            raise ValueError(f"becomes {image.shape}, not the {fit.shape} of its header")
    return made[0][None] if len(made) == 1 else np.stack(made)


def settle(
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


def levels_of_set(
    headers: dict[str, images.Header],
    measure: Callable[[list[str]], Iterable[tuple[str, tuple[float, float]]]],
    path: pathlib.Path,
) -> dict[str, Levels]:
    """{type of grey values: `Levels`}, of all images whose files do not state which is white.

    Args:
      headers: of the images by their names.
      measure: gives (name, (smallest, largest value)) of some, as they are asked for.
      path: of the set, for errors.

    Raises:
      UserError: if colours of 16 bits have but a few, of which the low byte would be lost.
    """
    by_kind = collections.defaultdict(list)
    for name, header in headers.items():
        if header.high_bytes or (header.dtype and not header.states_white):
            by_kind["colours" if header.high_bytes else header.dtype].append(name)
    seen = levels.Extremes()
    for kind, names in by_kind.items():
        # In bytes, the first bright image tells that they are no mask.
        bright = {"uint8": 1, "colours": 15}.get(kind, np.inf)
        for _, (lowest, highest) in measure(names):
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


def is_usual(header: images.Header) -> bool:
    """Whether the range of a set is likely to leave the values of an image as they are."""
    return header.states_white or header.dtype in ("", *USUAL)


def clause(asked: str, found: levels.Levels | dict | None) -> str:
    """What is said of the values that become black and white; "" if there is nothing to say."""
    if isinstance(found, levels.Levels):
        return f"data.range={asked}: {found.black:,.6g} is black, {found.white:,.6g} white"
    return "; ".join(each.clause for each in (found or {}).values() if each.clause)
