"""What measures are tested on."""

import numpy as np
import pytest

from tada_jax.data import load


@pytest.fixture(scope="session")
def digits():
    """(training, held-out) images of the digits, uint8 [N,8,8,1]."""
    found = load("digits", test_fraction=0.4)
    shuffle = np.random.default_rng(0).permutation  # they come in the order of their writers
    return shuffle(found.train.images), shuffle(found.test.images)
