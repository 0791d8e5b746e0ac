"""TADA: how strongly to augment an image, given the noise level drawn for it.

The reverse process of a diffusion model passes a rough, a *sensitive* and a fine interval. Only
the sensitive one decides whether a sample follows the data or the augmented data (paper, Fig. 1).
TADA therefore makes the strength of the augmentation a parabola in the log signal-to-noise ratio
that is smallest in the middle of the sensitive band and saturates at 1 on both sides.

    w = strength(logsnr)             # [B] -> [B], in [0, 1]
    x = augment_batch(rng, x, w)     # each image with its own strength

Nothing here knows a network, a data set or a configuration.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

BASE_RESOLUTION = 64  # pixels: the resolution at which the paper states its thresholds
CALIBRATIONS = ("resolution", "none", "inverse")


def log_snr_shift(resolution, *, calibration="resolution"):
    """What to add to the native log SNR of images of `resolution` pixels before the thresholds.

    Averaging 2x2 pixels multiplies the SNR by 4, so an image with more pixels looks equally
    corrupted at a lower SNR (Hoogeboom et al. 2023, simple diffusion): the SNR is multiplied by
    (d/64)^2 and then compared with thresholds that are stated for 64 pixels.

    Args:
      resolution: side of the image in pixels, d.
      calibration: "resolution" adds 2 ln(d/64); "inverse" subtracts it (the other reading of the
        paper's sentence); "none" takes the thresholds as native log SNR.

    Returns:
      The shift in nats, a float.

    Raises:
      ValueError: for an unknown calibration or a resolution that is not positive.
    """
    if calibration not in CALIBRATIONS:
        raise ValueError(f"calibration must be one of {CALIBRATIONS}, got {calibration!r}")
    if resolution <= 0:
        raise ValueError(f"resolution must be positive, got {resolution}")
    sign = {"resolution": 1.0, "none": 0.0, "inverse": -1.0}[calibration]
    return sign * 2.0 * math.log(resolution / BASE_RESOLUTION)


def auto_kappa(r_rough, r_fine, delta):
    """The curvature at which the parabola just touches 0 in the middle of the band.

    Then w = delta at both thresholds. This is our reading of the paper's "set automatically".
    """
    return 4.0 * delta / (r_fine - r_rough) ** 2


def strength(
    logsnr,
    *,
    r_rough=-3.0,
    r_fine=0.0,
    delta=0.1,
    kappa="auto",
    resolution=BASE_RESOLUTION,
    calibration="resolution",
    constant=None,
):
    """Augmentation strength w_t of each example (paper, section "Method").

        w_t = clip(kappa (r_t - r_rough)(r_t - r_fine) + delta, 0, 1),    r_t = log SNR(t)

    Args:
      logsnr: natural log of alpha_t^2 / sigma_t^2, any shape.
      r_rough: lower threshold of the sensitive band, log SNR at `BASE_RESOLUTION`.
      r_fine: upper threshold of the sensitive band.
      delta: strength at the two thresholds.
      kappa: curvature of the parabola, or "auto" for `auto_kappa`.
      resolution: side of the images in pixels, for the calibration of the SNR.
      calibration: see `log_snr_shift`.
      constant: a number in [0, 1] makes every strength equal to it, whatever the noise level: the
        control that augments with the same operations but ignores the timestep.

    Returns:
      Strengths in [0, 1], float32, the shape of `logsnr`.

    Raises:
      ValueError: for thresholds in the wrong order, or an option outside its range.
    """
    logsnr = jnp.asarray(logsnr, jnp.float32)
    if constant is not None:
        if not 0.0 <= constant <= 1.0:
            raise ValueError(f"constant strength must lie in [0, 1], got {constant}")
        return jnp.full_like(logsnr, constant)
    if not r_rough < r_fine:
        raise ValueError(f"r_rough must be below r_fine, got {r_rough} and {r_fine}")
    if not 0.0 <= delta <= 1.0:
        raise ValueError(f"delta must lie in [0, 1], got {delta}")
    if kappa == "auto":
        kappa = auto_kappa(r_rough, r_fine, delta)
    elif isinstance(kappa, str):
        raise ValueError(f'kappa must be "auto" or a number, got {kappa!r}')

    r = logsnr + log_snr_shift(resolution, calibration=calibration)
    return jax.lax.clamp(0.0, kappa * (r - r_rough) * (r - r_fine) + delta, 1.0)


def interpolated(logsnr, *, levels, strengths):
    """A schedule given as a table, linear between its levels and constant beyond its ends.

    Args:
      logsnr: natural log of alpha_t^2 / sigma_t^2, any shape.
      levels: native log SNR, [R], ascending.
      strengths: w at the levels, in [0, 1]: [R], or [R,K] for one of each of K operations.

    Returns:
      Strengths, float32, the shape of `logsnr`; with K at the end if there are several.

    Raises:
      ValueError: for a table that is empty, not ascending, or leaves [0, 1].
    """
    table = np.asarray(strengths, np.float32)
    at = np.asarray(levels, np.float32)
    if at.ndim != 1 or not len(at) or table.shape[:1] != at.shape or table.ndim > 2:
        raise ValueError("a table needs one or more levels, and as many strengths")
    if not (np.isfinite(at).all() and (np.diff(at) > 0).all()):
        raise ValueError("the levels of a table must ascend")
    if not ((table >= 0.0) & (table <= 1.0)).all():
        raise ValueError("the strengths of a table must lie in [0, 1]")
    r = jnp.asarray(logsnr, jnp.float32)
    if table.ndim == 1:
        return jnp.interp(r, at, table)
    return jnp.stack([jnp.interp(r, at, column) for column in table.T], -1)
