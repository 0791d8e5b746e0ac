"""Does the model draw augmented images? No standard measure exists; these are three.

A classifier tells real held-out images from T(x, 1) and from images that are neither
(`classifier.py`); here is what follows from its answers. The other two need no classifier.
"""

import dataclasses
import math

import numpy as np

from tada_jax.metrics import intervals
from tada_jax.metrics.frechet import frechet_distance, gaussian
from tada_jax.metrics.neighbours import rows

MOST_NEITHER = 0.5  # share of the samples above which the rest is too little to judge by
FEWEST_AUC = 0.6  # below it the classifier cannot tell augmented images from real ones


@dataclasses.dataclass(frozen=True)
class Leak:
    """How many samples are augmented images, of those that are good enough to be asked.

    Attributes:
      share: of augmented images among the samples that are either real or augmented ones, in
        [0, 1]; NaN where `reason` says why there is none.
      interval: 95% bootstrap interval of `share`, over the samples and the held-out images (an
        image with all that was made of it); the classifier's own fit is not in it. NaN likewise.
      neither: estimated share of samples that are neither, in [0, 1].
      neither_interval: of it, likewise.
      samples, real, augmented: mean P(real), P(augmented), P(neither), float64 [3] each.
      auc: share of pairs (real, augmented) that the classifier orders rightly, by
        P(augmented) / (P(augmented) + P(real)).
      reason: why there is no leak, or "".
    """

    share: float
    interval: tuple[float, float]
    neither: float
    neither_interval: tuple[float, float]
    samples: np.ndarray
    real: np.ndarray
    augmented: np.ndarray
    auc: float
    reason: str = ""

    @property
    def text(self):
        """In per cent, as "22.1 [19.0, 25.3]", or "n/a"."""
        if self.reason:
            return "n/a"
        low, high = self.interval
        return f"{100 * self.share:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def shares(answers, known):
    """Shares of the kinds in a mixture, from a classifier's mean answers.

    The mean answer is linear in the shares: sum_k share_k known_k. So the classifier need not be
    right about any single image, nor know the shares ("probability average" quantification, Bella
    et al. 2010). Solved by least squares over shares that are not negative.

    Args:
      answers: mean probabilities of the mixture, [K].
      known: mean probabilities of pure sets, [K,K], a row each.

    Returns:
      float64 [K], of sum 1.
    """
    from scipy.optimize import nnls  # here, because it takes half a second to import

    found, _ = nnls(np.asarray(known, np.float64).T, np.asarray(answers, np.float64))
    return found / found.sum() if found.sum() else np.full(len(found), np.nan)


def classifier_leak(samples, real, augmented, neither, *, seed=0):
    """The `Leak` from the classifier's answers.

    Args:
      samples: P(real), P(augmented), P(neither) of the samples, [n,3].
      real: of held-out images, [m,3].
      augmented: of T(x, 1) of the same images, in the same order, [m,3].
      neither: of what was made of them that is neither, [m,3].
      seed: of the bootstrap.
    """
    drawn, pure = np.asarray(samples, np.float64), np.stack([real, augmented, neither], 1)

    def both(drawn, pure):  # [n,3], [m,3,3] -> shares of augmented, of neither
        s = shares(drawn.mean(0), pure.mean(0))
        return np.array([s[1] / max(s[0] + s[1], 1e-12), s[2]])

    share, bad = both(drawn, pure)
    low, high = intervals.resampled(both, drawn, pure, seed=seed)
    order = auc(*(_ratio(pure[:, kind]) for kind in (0, 1)))
    reason = ""
    if order < FEWEST_AUC:
        reason = "the classifier cannot tell augmented images from real ones"
    elif bad > MOST_NEITHER:
        reason = f"{bad:.0%} of the samples look neither real nor augmented"
    return Leak(
        share=math.nan if reason else float(share),
        interval=(math.nan, math.nan) if reason else (float(low[0]), float(high[0])),
        neither=float(bad),
        neither_interval=(float(low[1]), float(high[1])),
        samples=drawn.mean(0),
        real=pure[:, 0].mean(0),
        augmented=pure[:, 1].mean(0),
        auc=order,
        reason=reason,
    )


def _ratio(answers):
    """P(augmented) / (P(augmented) + P(real)) of answers [n,3]."""
    return answers[:, 1] / np.maximum(answers[:, 0] + answers[:, 1], 1e-12)


def auc(low, high):
    """Share of pairs (of `low`, of `high`) in their right order, ties counting half."""
    from scipy.stats import rankdata

    n, m = len(low), len(high)
    ranks = rankdata(np.concatenate([low, high]))[n:].sum()
    return float((ranks - m * (m + 1) / 2) / (n * m))


def frechet_leak(samples, real, augmented):
    """FD(samples, real) - FD(samples, augmented): negative if nearer to the real images.

    Args:
      samples: features [N,D].
      real, augmented: features [M,D] of real images and of T(x, 1) of the same ones.

    Returns:
      A float, in units of the squared features.
    """
    drawn = gaussian(samples)
    return frechet_distance(drawn, gaussian(real)) - frechet_distance(drawn, gaussian(augmented))


def _coordinates(images):
    """Luma of [N,H,W,C] as mass apart from the border's, and coordinates in units of the sides."""
    luma = images.mean(-1)
    border = np.concatenate([luma[:, 0], luma[:, -1], luma[:, 1:-1, 0], luma[:, 1:-1, -1]], axis=1)
    mass = np.abs(luma - np.median(border, axis=1)[:, None, None]) + 1e-6
    mass /= mass.sum((1, 2), keepdims=True)
    h, w = luma.shape[1:]
    y = (np.arange(h) - (h - 1) / 2)[:, None] / h
    x = (np.arange(w) - (w - 1) / 2)[None, :] / w
    return mass, x, y


def _geometry(images):
    """Centroid and central second moments of the mass."""
    mass, x, y = _coordinates(images)
    cx, cy = ((mass * axis).sum((1, 2)) for axis in (x, y))
    dx, dy = x - cx[:, None, None], y - cy[:, None, None]
    return cx, cy, *((mass * m).sum((1, 2)) for m in (dx * dx, dx * dy, dy * dy))


def _centre(images):
    cx, cy, *_ = _geometry(images)
    return np.stack([cx, cy], -1)


def _size(images):
    *_, xx, _, yy = _geometry(images)
    return np.log(np.sqrt(xx + yy))[:, None]


def _orientation(images):
    *_, xx, xy, yy = _geometry(images)
    return np.stack([xx - yy, 2 * xy], -1) / (xx + yy)[:, None]


def _elongation(images):
    *_, xx, xy, yy = _geometry(images)
    return (np.hypot(xx - yy, 2 * xy) / (xx + yy))[:, None]


def _skew(images):
    """Third moment along y: its sign changes when the image is turned upside down."""
    mass, _, y = _coordinates(images)
    _, cy, *_ = _geometry(images)
    return (mass * (y - cy[:, None, None]) ** 3).sum((1, 2))[:, None]


def _upright(images):
    """Signed third moments along x and y: they change sign when the image is turned by 180."""
    mass, x, y = _coordinates(images)
    cx, cy, *_ = _geometry(images)
    thirds = [(mass * (axis - c[:, None, None]) ** 3).sum((1, 2)) for axis, c in ((x, cx), (y, cy))]
    return np.concatenate([_orientation(images), 30.0 * np.stack(thirds, -1)], -1)


def _mean(images):
    return images.mean((1, 2, 3))[:, None]


def _contrast(images):
    return np.log(images.mean(-1).std((1, 2)) + 1e-3)[:, None]


def _chroma_plane(images):
    """Mean colour apart from the luma, in a plane across the grey axis; [N,H,W,2]."""
    if images.shape[-1] == 1:
        return np.zeros((*images.shape[:3], 2))
    r, g, b = np.moveaxis(images, -1, 0)
    return np.stack([(2 * r - g - b) / np.sqrt(6), (g - b) / np.sqrt(2)], -1)


def _hue(images):
    return _chroma_plane(images).mean((1, 2))


def _chroma(images):
    return np.log(np.linalg.norm(_chroma_plane(images), axis=-1).mean((1, 2)) + 1e-3)[:, None]


# What each operation changes: (name and unit, float images [N,H,W,C] in [-1, 1] -> [N,K]).
MOMENTS = {
    "yflip": ("third moment along y [sides^3]", _skew),
    "rotate_int": ("orientation and third moments", _upright),
    "translate_int": ("centre of mass [sides]", _centre),
    "scale": ("log radius [nats]", _size),
    "rotate_frac": ("orientation and third moments", _upright),
    "aniso": ("elongation [0..1]", _elongation),
    "translate_frac": ("centre of mass [sides]", _centre),
    "brightness": ("mean luma [-1..1]", _mean),
    "contrast": ("log deviation of the luma [nats]", _contrast),
    "lumaflip": ("mean luma [-1..1]", _mean),
    "hue": ("mean chroma, two axes", _hue),
    "saturation": ("log chroma [nats]", _chroma),
}


@dataclasses.dataclass(frozen=True)
class Shift:
    """How far one operation has moved the statistic that it changes.

    Attributes:
      statistic: its name and unit.
      real, samples, augmented: its (mean, standard deviation) in the three sets, of its first
        component.
      share: Wasserstein-1 distance of samples to real images over that of augmented ones, less what
        two halves of the real images show: 0 for real images, about 1 for augmented ones. It may
        exceed 1, or be above 0 for samples that are bad in another way.
    """

    statistic: str
    real: tuple[float, float]
    samples: tuple[float, float]
    augmented: tuple[float, float]
    share: float


def moment_shift(operation, samples, real, augmented):
    """The `Shift` of one operation.

    Args:
      operation: a name of `MOMENTS`.
      samples, real: uint8 images [N,H,W,C], at least 2 each.
      augmented: uint8 images, real ones after this operation alone at w = 1.

    Returns:
      A `Shift`; its share is NaN where the operation changes nothing, as the hue of grey images.
    """
    name, statistic = MOMENTS[operation]
    values = [statistic(x.astype(np.float64) / 127.5 - 1.0) for x in (samples, real, augmented)]
    drawn, kept, moved = values
    # What equal distributions show at these numbers, from two halves of the real images.
    noise = _wasserstein(kept[::2], kept[1::2]) * np.sqrt((len(kept) / len(drawn) + 1.0) / 4.0)
    effect = _wasserstein(moved, kept)
    usable = effect > 2.0 * noise + 1e-9
    share = (_wasserstein(drawn, kept) - noise) / (effect - noise) if usable else float("nan")
    moments = [(float(v[:, 0].mean()), float(v[:, 0].std())) for v in values]
    return Shift(name, moments[1], moments[0], moments[2], float(max(share, 0.0)))


def _wasserstein(a, b):
    """Wasserstein-1 distance of each component, averaged."""
    from scipy.stats import wasserstein_distance

    return np.mean([wasserstein_distance(x, y) for x, y in zip(rows(a).T, rows(b).T)])
