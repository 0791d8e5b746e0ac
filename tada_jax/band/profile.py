"""The profile of a data set: what augmentation does to its denoiser at every noise level.

K(r), detectable, and V(r), visible, are defined in `estimate.py`, which computes them. Here is
what is read off them: the sensitive band, and free-form schedules.
"""

import dataclasses
import json

import numpy as np

from tada_jax.system.paths import to_json

# A self-check fails beyond so many standard errors, if it is also beyond so large a share, and so
# many nats, of which the coarse grid of levels and the sketch of large images take their part.
FAILING_ERRORS = 3.0
FAILING_SHARE = 0.25
FAILING_NATS = 0.05

ALL = "all"  # the name of the whole policy among those of its operations


@dataclasses.dataclass(frozen=True, eq=False)
class Curve:
    """K and V of one augmentation at one strength, float64 [R] each, with standard errors."""

    detectable: np.ndarray
    detectable_error: np.ndarray
    visible: np.ndarray
    visible_error: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Check:
    """The exact identities that the profile of a finite set must obey, for w = 1.

    Attributes:
      integral: of K over the grid.
      divergence: KL(p_base || p_w) at its upper end, from the likelihoods themselves.
      limit: -ln(1 - p share), what both would reach without noise.
      error, divergence_error: standard errors of the first two.
      share: of the copies that differ from their original.
    """

    integral: float
    divergence: float
    limit: float
    error: float
    divergence_error: float
    share: float


@dataclasses.dataclass(frozen=True, eq=False)
class Memory:
    """Where the training images can be told apart, by noise level, float64 [R].

    Attributes:
      concentration: W_s, the mean largest weight that a noised training image gives to any one.
      coverage: C_s, the share of noised held-out images that lie in the shell of a training image,
        |z - x_i|^2 within 2 standard deviations of what x_i itself noised would show; None without
        held-out images.
    """

    concentration: np.ndarray
    coverage: np.ndarray | None


@dataclasses.dataclass(frozen=True, eq=False)
class Profile:
    """What augmentation does to the denoiser of a data set at every noise level.

    Attributes:
      logsnr: native log SNR, float64 [R], ascending, nats.
      strengths: w, ascending.
      curves: {(name, w): Curve}; a name is `ALL` or an operation, which fires as often as in the
        policy.
      proxy: of `PROXIES`, or "trained".
      check: of the exact identities; None for trained networks.
      memory: `Memory`, or None.
      patches: what `local` chose at each level, [R,2]: side of the patches (0: whole images), and
        width of the points; or None.
      about: images, queries, copies, seed and seconds, for titles.
    """

    logsnr: np.ndarray
    strengths: tuple[float, ...]
    curves: dict[tuple[str, float], Curve]
    proxy: str
    check: Check | None = None
    memory: Memory | None = None
    patches: np.ndarray | None = None
    about: dict = dataclasses.field(default_factory=dict)

    def to_json(self):
        """As text; `from_json` reads it."""
        tree = dataclasses.asdict(self)
        tree["curves"] = [[*key, dataclasses.asdict(c)] for key, c in self.curves.items()]
        return to_json(tree, indent=1) + "\n"

    @property
    def failure(self):
        """Why nothing can be read off the profile, with a remedy; None if its self-check holds.

        The check is that of the exact posterior, whatever the proxy: the images, the copies and the
        noise that all proxies share.
        """
        c = self.check
        if c is None:
            return None
        apart = abs(c.integral - c.divergence)
        error = float(np.nan_to_num(np.hypot(c.error, c.divergence_error)))
        allowed = max(FAILING_ERRORS * error, FAILING_SHARE * abs(c.divergence), FAILING_NATS)
        if apart <= allowed:
            return None
        return (
            f"its self-check fails: the integral of K is {c.integral:.2f} and must be "
            f"{c.divergence:.2f} nats, to within {allowed:.2f}: use more images or a larger "
            "config.sensitivity.queries, or give the band yourself (config.tada.r_rough, r_fine, "
            "calibration='none')"
        )

    @property
    def names(self):
        """`ALL` and the operations."""
        return tuple(dict.fromkeys(name for name, _ in self.curves))

    def band(self, thresholds, *, name=ALL, w=1.0):
        """The sensitive band [r_rough, r_fine] in native log SNR.

        From the first to the last crossing of the risk with 1, linear in its logarithm. None if no
        level is sensitive, and where the self-check fails (`failure` says so).

        Args:
          thresholds: (K in nats, V as a share), where a level counts as sensitive.
          name: the whole policy or an operation.
          w: strength, of those of the profile.
        """
        return None if self.failure else band(self.logsnr, self.risk(thresholds, name, w))

    def risk(self, thresholds, name=ALL, w=1.0):
        """min(K / threshold of K, V / threshold of V), [R]: above 1 a level is sensitive."""
        curve = self.curves[name, w]
        return np.minimum(curve.detectable / thresholds[0], curve.visible / thresholds[1])

    def freeform(self, thresholds, budget=1.0, *, name=ALL):
        """w*(r), the largest strength whose risk stays within the budget, [R] in [0, 1].

        No smaller strength exceeds it either. Between the strengths of the profile the square root
        of the risk is taken as linear, which is exact for small ones; the risk of a level is the
        largest of its own and its neighbours', so that noise opens no gap.
        """
        risks = self._risks(thresholds, name)
        return self._largest(np.sqrt(risks), np.full(len(self.logsnr), np.sqrt(budget)))

    def weighted(self, thresholds, budget=1.0, *, name=ALL):
        """w*(r), the largest strength whose risk per strength is worth it, [R] in [0, 1].

        Risk grows as w^2. To spend a total of it where it buys most, no level may pay more for the
        last unit of strength than another, as against what that unit is worth there. Its worth is
        taken to be W_s: where training images cannot be told apart, none can be copied. So
        risk / w <= budget W_s; the risk of a level is again the largest of its neighbours'.

        Raises:
          ValueError: for a profile without `memory`.
        """
        if self.memory is None:
            raise ValueError("a profile without memory says nothing about what augmentation gives")
        prices = self._risks(thresholds, name) / np.array(self.strengths)[:, None]
        return self._largest(prices, budget * self.memory.concentration)

    def _risks(self, thresholds, name):
        """The risk of each strength at each level, or beside it if it is larger there, [W,R]."""
        risks = [_of_neighbours(self.risk(thresholds, name, w)) for w in self.strengths]
        return np.maximum(risks, 0.0)

    def _largest(self, heights, limits):
        """The largest strength up to which heights [W,R], 0 at w = 0, stay within limits [R]."""
        strengths = np.array((0.0, *self.strengths))
        columns = np.pad(heights, ((1, 0), (0, 0))).T
        return np.array([_first_crossing(strengths, *pair) for pair in zip(columns, limits)])


def _of_neighbours(risk):
    """The largest of each element [R] and the two beside it."""
    padded = np.pad(risk, 1, mode="edge")
    return np.maximum(np.maximum(padded[:-2], padded[2:]), risk)


def _first_crossing(x, y, level):
    """The x at which y, linear between its points, first exceeds a level; the last x if never."""
    above = np.flatnonzero(y > level)
    if not len(above):
        return x[-1]
    i = above[0]
    return x[i - 1] + (level - y[i - 1]) / (y[i] - y[i - 1]) * (x[i] - x[i - 1])


def from_json(text):
    """The `Profile` that `to_json` wrote."""
    tree = json.loads(text)

    def array(values):
        return None if values is None else np.array(values, float)  # null becomes NaN

    curves = {
        (name, w): Curve(**{key: array(values) for key, values in fields.items()})
        for name, w, fields in tree["curves"]
    }
    memory = tree["memory"] and Memory(**{k: array(v) for k, v in tree["memory"].items()})
    return Profile(
        logsnr=np.array(tree["logsnr"]),
        strengths=tuple(tree["strengths"]),
        curves=curves,
        proxy=tree["proxy"],
        check=tree["check"] and _check_of(tree["check"]),
        memory=memory,
        patches=array(tree["patches"]),
        about=tree["about"],
    )


def _check_of(fields):
    """A `Check`; JSON has neither the infinite limit of a policy that leaves no image, nor NaN."""
    missing = {key: float("nan") for key, value in fields.items() if value is None}
    if "limit" in missing:
        missing["limit"] = float("inf")
    return Check(**fields | missing)


def band(logsnr, risk):
    """The first and the last crossing of a risk [R] with 1, or None."""
    inside = np.flatnonzero(risk >= 1.0)
    if not len(inside):
        return None
    height = np.log(np.maximum(risk, 1e-12))

    def crossing(low, high):
        share = height[low] / (height[low] - height[high])
        return float(logsnr[low] + share * (logsnr[high] - logsnr[low]))

    first, last = inside[0], inside[-1]
    rough = crossing(first - 1, first) if first else float(logsnr[0])
    fine = crossing(last, last + 1) if last + 1 < len(risk) else float(logsnr[-1])
    return rough, fine
