"""Data sets as arrays: `load(name)` gives uint8 images [N,H,W,C], labels and a held-out split.

A source is a module with a function `load(options) -> Dataset` that reads everything it has;
`_SOURCES` lists them. Importing this package imports numpy and little else.
"""

import dataclasses
import importlib

import numpy as np

from tada_jax.data import levels
from tada_jax.data.base import (
    COLORS,
    FITS,
    MAX_PIXELS,
    PAGES,
    UNREADABLE,
    Dataset,
    Options,
    Reading,
    Split,
    files_alone,
)
from tada_jax.data.labels import LABELS, of_folders_alone
from tada_jax.system import garbage
from tada_jax.system.errors import UserError

__all__ = [
    "COLORS",
    "FITS",
    "LABELS",
    "PAGES",
    "UNREADABLE",
    "Dataset",
    "Options",
    "Reading",
    "Split",
    "load",
]

_CHOICES = {
    "fit": FITS,
    "unreadable": UNREADABLE,
    "labels": LABELS,
    "color": COLORS,
    "pages": PAGES,
}
_SOURCES = {"cifar10": "cifar10", "digits": "digits", "images": "files", "tfds": "tfds"}


def load(name: str, *, train_size: int | None = None, **options) -> Dataset:
    """Loads a data set by name.

    Args:
      name: 'digits', 'cifar10', 'images' (whatever `files.load` reads at `path`) or 'tfds:NAME'.
      train_size: how many training images to keep; None keeps all, in the source's own order. A
        subset is the first `train_size` of one permutation drawn by `seed`, so a smaller one is a
        prefix of a larger one. The held-out split does not depend on it.
      **options: fields of `Options`.

    Returns:
      A Dataset; images are uint8 [N,H,W,C], labels int32 [N].

    Raises:
      UserError: unknown name, impossible number, or no readable copy of the data.
    """
    kind, _, rest = name.partition(":")
    options = Options(name=rest, **options)
    if kind not in _SOURCES:
        known = ", ".join(sorted(_SOURCES))
        raise UserError(f"data.name={name!r} is unknown; choose one of: {known}")
    if not 0 <= options.test_fraction < 1:
        raise UserError(
            f"data.test_fraction={options.test_fraction} must be at least 0 and less than 1"
        )
    if options.seed < 0:
        raise UserError(f"data.seed={options.seed} must not be negative")
    for field, choices in _CHOICES.items():
        chosen = getattr(options, field)
        if chosen not in choices:
            raise UserError(
                f"data.{field}={chosen!r} is unknown; choose one of: {', '.join(choices)}"
            )
    if kind != "images" and options.labels not in ("auto", "none"):
        raise of_folders_alone(options.labels)
    if levels.given(options.range) and kind != "images":
        raise UserError(
            f"data.range={options.range}: only images at data.path have values of their own"
        )
    if kind != "images":
        files_alone(options, name)
    if options.channels not in (None, 1, 3):
        raise UserError(f"data.channels={options.channels} cannot be: 1 (grey) or 3 (RGB)")
    if options.resolution is not None and options.resolution < 1:
        raise UserError(f"data.resolution={options.resolution} must be at least 1")
    if options.resolution is not None and options.resolution**2 > MAX_PIXELS:
        raise UserError(
            f"data.resolution={options.resolution} makes images of more than {MAX_PIXELS:,} "
            "pixels: choose a smaller one, as 256"
        )
    background = options.background
    if len(background) != 3 or any(v not in range(256) for v in background):
        raise UserError(f"data.background={background} cannot be: RGB of 0..255, as (255,255,255)")
    source = importlib.import_module(f"{__name__}.{_SOURCES[kind]}")
    with garbage.collecting_often():
        dataset = source.load(options)
    available = len(dataset.train.images)
    if not available:
        raise UserError(
            f"data.test_fraction={options.test_fraction} leaves no training image: lower it"
        )
    if options.labels == "none" and dataset.num_classes:
        dataset = _without_labels(dataset)
    if train_size is not None:
        dataset = _subset(dataset, train_size, options.seed, name)
    return _conform(dataset, options)


def _without_labels(dataset):
    return dataclasses.replace(
        dataset,
        train=dataclasses.replace(dataset.train, labels=None),
        test=dataclasses.replace(dataset.test, labels=None),
        num_classes=0,
        class_names=(),
        source=f"{dataset.source}; no classes, since data.labels=none",
    )


def _subset(dataset, train_size, seed, name):
    available = len(dataset.train.images)
    if not 1 <= train_size <= available:
        raise UserError(
            f"data.train_size={train_size} does not fit {name}, which has {available} training "
            f"images; choose 1 to {available}"
        )
    chosen = np.random.default_rng((seed, 1)).permutation(available)[:train_size]
    return dataclasses.replace(
        dataset,
        train=dataset.train.take(chosen),
        source=f"{dataset.source}; training on {train_size:,} of them (seed {seed})",
    )


def _conform(dataset, options):
    """Brings sets that are arrays already to the stated resolution and channels."""
    if options.resolution is None and options.channels is None:
        return dataset
    from tada_jax.data import arrays

    def conform(split):
        if not len(split.images):
            return Split(arrays.conform(dataset.train.images[:1], options)[:0], split.labels)
        return Split(arrays.conform(split.images, options), split.labels)

    return dataclasses.replace(dataset, train=conform(dataset.train), test=conform(dataset.test))
