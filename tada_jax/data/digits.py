"""The 1,797 real handwritten 8x8 digits that scikit-learn carries: no download, quick to learn."""

import numpy as np

from tada_jax.data.base import Dataset, Options, Split, hold_out
from tada_jax.errors import UserError


def load(options: Options) -> Dataset:
    """Loads the digits, uint8 [N,8,8,1]: 0..16 stretched to 0..255, `test_fraction` held out.

    Raises:
      UserError: if a path is given, since the data come with scikit-learn.
    """
    if options.path is not None:
        raise UserError(f"data.path={options.path} has no meaning for digits; leave it out")
    from sklearn.datasets import load_digits  # here, because it takes a second to import

    bunch = load_digits()
    images = np.round(bunch.images * (255 / 16)).astype(np.uint8)[..., None]
    examples = Split(images, bunch.target.astype(np.int32))
    train, test = hold_out(examples, options.test_fraction, options.seed)
    counts = f"{len(train.images):,} training + {len(test.images):,} held-out images"
    return Dataset("digits", train, test, 10, f"scikit-learn's bundled digits, {counts}")
