"""Data sets as arrays: `load(name)` gives uint8 images [N,H,W,C], labels and a held-out split.

A source is a function `load(*, path, test_fraction, seed, allow_download) -> Dataset` that reads
everything it has; `_SOURCES` lists them. Importing this package imports numpy and little else.
"""

import dataclasses

import numpy as np

from tada_jax.data import cifar10, digits
from tada_jax.data.base import Dataset, Split
from tada_jax.errors import UserError

__all__ = ["Dataset", "Split", "load"]

_SOURCES = {"cifar10": cifar10.load, "digits": digits.load}


def load(
    name: str,
    *,
    path: str | None = None,
    train_size: int | None = None,
    test_fraction: float = 0.1,
    seed: int = 0,
    allow_download: bool = True,
) -> Dataset:
    """Loads a data set by name.

    Args:
      name: 'digits' or 'cifar10'.
      path: where a local copy lies, for the sources that take one; None or '' to look for one.
      train_size: how many training images to keep; None keeps all, in the source's own order. A
        subset is the first `train_size` of one permutation drawn by `seed`, so a smaller one is a
        prefix of a larger one. The held-out split does not depend on it.
      test_fraction: share to hold out, in [0, 1). Unused by sources with a test split of their
        own (cifar10).
      seed: draws both the held-out split and the subset, from separate streams.
      allow_download: False forbids the network.

    Returns:
      A Dataset; images are uint8 [N,H,W,C], labels int32 [N].

    Raises:
      UserError: unknown name, impossible number, or no readable copy of the data.
    """
    if name not in _SOURCES:
        known = ", ".join(sorted(_SOURCES))
        raise UserError(f"data.name={name!r} is unknown; choose one of: {known}")
    if not 0 <= test_fraction < 1:
        raise UserError(f"data.test_fraction={test_fraction} must be at least 0 and less than 1")
    if seed < 0:
        raise UserError(f"data.seed={seed} must not be negative")
    dataset = _SOURCES[name](
        path=path or None, test_fraction=test_fraction, seed=seed, allow_download=allow_download
    )
    available = len(dataset.train.images)
    if not available:
        raise UserError(f"data.test_fraction={test_fraction} leaves no training image: lower it")
    if train_size is None:
        return dataset
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
