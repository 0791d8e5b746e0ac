"""Whether samples are tinted: their tones against those of held-out images.

Networks of few images drift in colour: a whole sample is too dark, or all samples are a little
green. The tone of an image is the mean over its pixels of a channel, or of luma (ITU-R 601). The
mean over the samples says whether all of them are shifted, the spread between samples whether each
is shifted on its own.
"""

from typing import NamedTuple

import numpy as np

from tada_jax.metrics import intervals

VISIBLE = 8.0  # of 255: a grid of samples that is shifted by so much looks tinted
_LUMA = np.array([0.299, 0.587, 0.114])
UNBOUNDED = 1e6  # times: where so few real images differ that a drawing of them may have one tone


class Tint(NamedTuple):
    """The tones of samples in one channel.

    Attributes:
      shift: mean tone of samples minus that of real images, 0..255.
      shift_interval: of 95%; None with fewer than two of either.
      spread: standard deviation of tones between samples, of that between real images; NaN where
        those do not differ.
      spread_interval: of 95%; None where there is no spread.
    """

    shift: float
    shift_interval: tuple[float, float] | None
    spread: float
    spread_interval: tuple[float, float] | None


def tones(images, chunk=4096):
    """{channel: mean over pixels, float64 [N]} of uint8 [N,H,W,C]: "luma", and three colours."""
    parts = range(0, len(images), chunk)
    means = np.concatenate(
        [np.asarray(images[i : i + chunk]).mean((1, 2), dtype=np.float64) for i in parts]
    )
    if means.shape[1] == 1:
        return {"luma": means[:, 0]}
    return {"luma": means @ _LUMA, **dict(zip(("red", "green", "blue"), means.T))}


def tint(samples, real):
    """{channel: `Tint`} of samples and real images, uint8 [N,H,W,C] and [M,H,W,C]."""
    of_real = tones(real)
    return {name: _of_channel(values, of_real[name]) for name, values in tones(samples).items()}


def sure(samples, real):
    """By how much samples are shifted at least, with 95%, in the channel where that is most.

    Returns:
      0..255, 0 where no interval leaves it out.
    """
    of_real = tones(real)
    nearest = [0.0]
    for name, values in tones(samples).items():
        _, interval = intervals.of_difference(values, of_real[name])
        if interval is not None:
            nearest.append(max(interval[0], -interval[1]))
    return max(nearest)


def _of_channel(drawn, real):
    shift, interval = intervals.of_difference(drawn, real)
    if min(len(drawn), len(real)) < 2 or not real.std():
        return Tint(shift, interval, float("nan"), None)

    def ratio(a, b):
        return a.std() / max(b.std(), 1e-9)

    spread, ends = float(ratio(drawn, real)), intervals.resampled(ratio, drawn, real)
    return Tint(shift, interval, spread, ends if ends[1] < UNBOUNDED else None)
