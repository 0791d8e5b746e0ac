"""Deterministic operations on ONE image: no random numbers, no strengths.

Images are float32 [H,W,C] in [-1, 1], C = 1 or 3; nothing is clipped. Geometry is a homogeneous
3x3 matrix acting on (column x, row y, 1), offsets in pixels from the image's centre; colour is a
homogeneous 4x4 matrix acting on (r, g, b, 1). Operations compose by multiplying matrices, so that
an image is resampled once and recoloured once, however many operations it undergoes. Formulas:
StyleGAN2-ADA (Karras et al. 2020), appendix B, and EDM (Karras et al. 2022), appendix F.2.
"""

import jax.numpy as jnp
import numpy as np

from tada_jax.resample import resample

LUMA_AXIS = np.full(3, 1 / np.sqrt(3), np.float32)  # the grey axis v of RGB space


def _matrix(rows):
    return jnp.stack([jnp.stack([jnp.asarray(v, jnp.float32) for v in row]) for row in rows])


# Geometry: 3x3 matrices.


def translation(x, y):
    """Moves by x columns and y rows."""
    return _matrix([[1, 0, x], [0, 1, y], [0, 0, 1]])


def scaling(x, y):
    """Stretches columns by x and rows by y."""
    return _matrix([[x, 0, 0], [0, y, 0], [0, 0, 1]])


def rotation(angle_rad):
    """Rotates from the x axis towards the y axis: clockwise as an image is looked at."""
    c, s = jnp.cos(angle_rad), jnp.sin(angle_rad)
    return _matrix([[c, -s, 0], [s, c, 0], [0, 0, 1]])


def quarter_turns(turns):
    """Rotates by turns * 90 degrees, with exact entries; `turns` is an integer-valued number."""
    turns = jnp.asarray(turns, jnp.int32) % 4
    c = jnp.asarray([1.0, 0.0, -1.0, 0.0])[turns]
    s = jnp.asarray([0.0, 1.0, 0.0, -1.0])[turns]
    return _matrix([[c, -s, 0], [s, c, 0], [0, 0, 1]])


def apply_geometry(x, inverse):
    """Resamples an image once, reading beyond its edges from its mirror image.

    Args:
      x: image [H,W,C].
      inverse: 3x3 matrix from a pixel of the result to the place in `x` that it shows.
    """
    return resample(x, inverse[:2])


# Colour: 4x4 matrices.


def brightness(offset):
    """Adds `offset` to every channel."""
    return _matrix([[1, 0, 0, offset], [0, 1, 0, offset], [0, 0, 1, offset], [0, 0, 0, 1]])


def contrast(factor):
    """Multiplies every channel by `factor`, about 0 (mid-grey)."""
    return _matrix([[factor, 0, 0, 0], [0, factor, 0, 0], [0, 0, factor, 0], [0, 0, 0, 1]])


def _homogeneous(color3):
    return jnp.eye(4).at[:3, :3].set(color3)


def luma_flip(flip):
    """I - 2 v v^T: mirrors the luma and keeps the hue; for `flip` = 0 the identity."""
    v = LUMA_AXIS
    return _homogeneous(jnp.eye(3) - 2.0 * flip * np.outer(v, v))


def hue_rotation(angle_rad):
    """Rotates RGB space about the grey axis v (Rodrigues' formula)."""
    v = LUMA_AXIS
    cross = np.array([[0, -v[2], v[1]], [v[2], 0, -v[0]], [-v[1], v[0], 0]], np.float32)
    outer = np.outer(v, v)
    c, s = jnp.cos(angle_rad), jnp.sin(angle_rad)
    return _homogeneous(outer + c * (np.eye(3) - outer) + s * cross)


def saturation(factor):
    """v v^T + (I - v v^T) factor: moves colours away from grey, or towards it."""
    outer = np.outer(LUMA_AXIS, LUMA_AXIS)
    return _homogeneous(outer + (np.eye(3) - outer) * factor)


def apply_color(x, matrix):
    """Recolours an image [H,W,C] by one affine map of RGB space.

    A grey image (C = 1) is taken as r = g = b and keeps the mean of the three results.
    """
    if x.shape[-1] == 1:
        rows = matrix[:3].mean(0)
        return x * rows[:3].sum() + rows[3]
    # Written out: a matrix product this thin is slow on CPUs and imprecise on TPUs.
    r, g, b = (x[..., i : i + 1] for i in range(3))
    return r * matrix[:3, 0] + g * matrix[:3, 1] + b * matrix[:3, 2] + matrix[:3, 3]
