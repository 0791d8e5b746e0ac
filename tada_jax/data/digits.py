"""The 1,797 real handwritten 8x8 digits that scikit-learn carries: no download, quick to learn."""

import importlib.metadata

import numpy as np

from tada_jax.data.base import Dataset, Options, Split, hold_out
from tada_jax.data.cache import digest, load_cached
from tada_jax.system.errors import UserError

_FILE = "digits.npz"
_FORMAT_VERSION = "1"  # of the kept file


def load(options: Options) -> Dataset:
    """Loads the digits, uint8 [N,8,8,1]: 0..16 stretched to 0..255, `test_fraction` held out.

    Raises:
      UserError: if a path is given, since the data come with scikit-learn.
    """
    if options.path is not None:
        raise UserError(f"data.path={options.path} has no meaning for digits; leave it out")
    images, labels = _images_and_labels()
    examples = Split(np.round(images * (255 / 16)).astype(np.uint8)[..., None], labels)
    train, test = hold_out(examples, options.test_fraction, options.seed)
    counts = f"{len(train.images):,} training + {len(test.images):,} held-out images"
    return Dataset("digits", train, test, 10, f"scikit-learn's bundled digits, {counts}")


def _images_and_labels():
    """Images 0..16 [N,8,8], labels int32 [N]; from the cache, as scikit-learn imports slowly."""
    version = importlib.metadata.version("scikit-learn")
    try:
        return load_cached(digest("digits", _FORMAT_VERSION, version), _keep, _kept, kind="digits")
    except UserError:  # without a cache it is only slower
        return _from_sklearn()


def _from_sklearn():
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return bunch.images, bunch.target.astype(np.int32)


def _keep(folder):
    images, labels = _from_sklearn()
    np.savez(folder / _FILE, images=images, labels=labels)


def _kept(folder):
    with np.load(folder / _FILE) as arrays:
        return arrays["images"], arrays["labels"]
