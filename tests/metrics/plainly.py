"""What measures are tested with: random numbers, distances one by one."""

import numpy as np

from tada_jax.augment import Policy


def normal(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape)


# Distances


def distances_one_by_one(a, b):
    return np.array([[np.linalg.norm(x - y) for y in b] for x in a])


# Leakage


ROTATIONS = Policy(ops=("rotate_frac", "scale", "translate_frac"), p=1.0, xflip_p=0.0, max_ops=2)
