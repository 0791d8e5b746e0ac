"""Pixels as files have them, uint8 0..255, and as networks do, float32 in [-1, 1].

Both functions take arrays of NumPy and of JAX, traced ones too, and return the same kind.
"""

import numpy as np


def to_float(images):
    """uint8 0..255 -> float32 in [-1, 1], of any shape."""
    return images.astype(np.float32) / 127.5 - 1.0


def to_uint8(x):
    """Floats in [-1, 1] -> uint8 0..255, rounded half to even; what lies outside is clipped."""
    return (x * 127.5 + 127.5).clip(0.0, 255.0).round().astype(np.uint8)
