"""When a run becomes good and when it begins to copy, read off what it logs while training.

Samples become good after tau_gen steps, hardly later with more images; copies begin after tau_mem
steps, in proportion to their number; between the two is the window in which to stop (Bonnaire et
al., arXiv 2505.17638). The rules here are ours. They read the quick metrics of samples
(`log.metrics_every`), a look every so many steps, each at samples of the same noise:

- tau_gen: the first look whose Frechet distance to held-out images is at most `GOOD` times the
  lowest of the run. If that is the last look's, it still falls, and tau_gen has not been seen.
- tau_mem: where the share of copies among the samples passes what held-out images show, by their
  intervals: the lower end of Wilson's for the samples lies above the upper end of that for held-out
  images, at two looks in a row. Between the first of them and the look before it, the share is
  taken to rise in a straight line.
- While a run goes on it has entered the window when its last `PATIENCE` looks together lowered the
  distance by less than `GOOD`.
"""

import bisect
import dataclasses
import math

import numpy as np

from tada_jax.metrics import intervals
from tada_jax.training import yardstick

GOOD = 1.1  # times the lowest Frechet distance, still as good
PATIENCE = 3  # looks
NEEDED = {"step", "fd", "copies", "copies_real"}


@dataclasses.dataclass(frozen=True)
class Clock:
    """The times of a run, in training steps.

    Attributes:
      tau_gen: when its samples were good; None if they still get better at the last look.
      turn: step of the lowest loss on held-out images; None if that is the last, or there is none.
      tau_mem: when it began to copy; None if that was not seen.
      last: step of the last look.
      last_loss: step of the last loss on held-out images, or None.
      below: step of the last look at which it did not copy; 0 if there is none. Where tau_mem is
        None it is later than this.
      entered: the look at which it was seen to have entered the window, or None.
      copies: share of the samples of the last look.
      threshold: share from which samples count as copying.
      first: step of the first look.
    """

    tau_gen: float | None
    turn: int | None
    tau_mem: float | None
    last: int
    last_loss: int | None
    below: int
    entered: int | None
    copies: float
    threshold: float
    first: int

    @property
    def left(self):
        """Whether the run is past the window: it has begun to copy."""
        return self.tau_mem is not None

    @property
    def at_once(self):
        """Whether it was copying at its first look, so that tau_mem is not later than that."""
        return self.tau_mem == self.first

    def marks(self):
        """{what it is: step} of the times that were seen, for figures."""
        times = {
            "held-out loss lowest": self.turn,
            "samples good": self.tau_gen,
            "copies begin": self.tau_mem,
        }
        return {name: step for name, step in times.items() if step is not None}


def read(lines, *, samples, held_out):
    """The `Clock` of a run, or None without two looks.

    Args:
      lines: dicts of metrics.jsonl.
      samples: that each look is at (`log.metrics_count`).
      held_out: images that there are.
    """
    looks = yardstick.same([line for line in lines if line.keys() >= NEEDED])
    if len(looks) < 2:
        return None
    steps, copies = (np.array([line[key] for line in looks], float) for key in ("step", "copies"))
    threshold = least_share(looks[-1]["copies_real"], samples=samples, held_out=held_out)
    distances = np.array([line["fd"] for line in looks])
    good = int(np.argmax(distances <= GOOD * distances.min()))
    losses = [(line["test_mse"], line["step"]) for line in lines if "test_mse" in line]
    turn, last_loss = (min(losses)[1], losses[-1][1]) if losses else (None, None)
    entered = _settled(distances)
    return Clock(
        tau_gen=None if distances.argmin() == len(looks) - 1 else float(steps[good]),
        turn=None if turn == last_loss else turn,
        tau_mem=_passes(steps, copies, threshold),
        last=int(steps[-1]),
        last_loss=last_loss,
        below=int(max(steps[copies < threshold], default=0)),
        entered=None if entered is None else int(steps[entered]),
        copies=float(copies[-1]),
        threshold=threshold,
        first=int(steps[0]),
    )


def _settled(distances):
    """The first look that, with those before it, lowered the distance no more; None if none."""
    for i in range(PATIENCE, len(distances)):
        before, since = distances[: i - PATIENCE + 1], distances[i - PATIENCE + 1 : i + 1]
        if GOOD * since.min() >= before.min():
            return i
    return None


def least_share(copies_real, *, samples, held_out):
    """The least share of copies among samples that is above that of held-out images, by intervals.

    Args:
      copies_real: share of held-out images that would pass as copies.
      samples, held_out: how many there are.
    """
    _, most = intervals.of_share(round(copies_real * held_out), held_out)
    count = bisect.bisect_right(
        range(samples + 1), most, key=lambda count: intervals.of_share(count, samples)[0]
    )
    return count / samples if count <= samples else math.inf


def _passes(steps, copies, threshold):
    """The step at which a share passes a threshold for two looks in a row, or None."""
    above = copies >= threshold
    twice = above[:-1] & above[1:]
    if not twice.any():
        return None
    i = int(np.argmax(twice))
    if i == 0:
        return float(steps[0])
    rise = (threshold - copies[i - 1]) / (copies[i] - copies[i - 1])
    return float(steps[i - 1] + rise * (steps[i] - steps[i - 1]))


@dataclasses.dataclass(frozen=True)
class Fit:
    """tau = c n^a, by least squares of log tau in log n; runs are taken to be independent.

    Attributes:
      c, a: of the formula.
      c_interval, a_interval: 95%, by Student's t.
      runs: behind it.
      center, spread, error: mean and sum of squares of log n, standard deviation of the residuals.
    """

    c: float
    a: float
    c_interval: tuple[float, float]
    a_interval: tuple[float, float]
    runs: int
    center: float
    spread: float
    error: float

    def predict(self, n):
        """(tau, (low, high)) of one more run with n images, with its 95% interval."""
        from scipy import stats

        x = math.log(n)
        tau = self.c * n**self.a
        width = self.error * math.sqrt(1 + 1 / self.runs + (x - self.center) ** 2 / self.spread)
        factor = math.exp(stats.t.ppf(0.975, self.runs - 2) * width)
        return tau, (tau / factor, tau * factor)


def fit(sizes, times):
    """The `Fit` of times to numbers of images; None with fewer than three runs, or one size.

    Args:
      sizes: images of each run.
      times: tau of each, of runs that all have one.
    """
    if len(times) < 3 or len(set(sizes)) < 2:
        return None
    from scipy import stats

    x, y = np.log(np.asarray(sizes, float)), np.log(np.asarray(times, float))
    found = stats.linregress(x, y)
    t = stats.t.ppf(0.975, len(x) - 2)
    residuals = y - found.intercept - found.slope * x
    return Fit(
        c=math.exp(found.intercept),
        a=float(found.slope),
        c_interval=tuple(
            math.exp(found.intercept + sign * t * found.intercept_stderr) for sign in (-1, 1)
        ),
        a_interval=tuple(float(found.slope + sign * t * found.stderr) for sign in (-1, 1)),
        runs=len(x),
        center=float(x.mean()),
        spread=float(((x - x.mean()) ** 2).sum()),
        error=float(math.sqrt((residuals**2).sum() / (len(x) - 2))),
    )


@dataclasses.dataclass(frozen=True)
class Factor:
    """By how much a method puts copying off, tau_mem / tau_mem without augmentation.

    Attributes:
      value: geometric mean over pairs of runs with equal images and seed.
      interval: 95%, by Student's t of its logarithm, as if pairs were independent; None with one
        pair, or with bounds.
      pairs: how many there are.
      bounds: of how many the method's run had not begun to copy, and the last look at which it did
        not counts, or the other run copied at its first look: if any, the value is a lower bound.
      dropped: pairs that do not count, since the run without augmentation had not begun to copy, or
        the method's copied at its first look.
    """

    value: float
    interval: tuple[float, float] | None
    pairs: int
    bounds: int
    dropped: int


def factor(pairs):
    """The `Factor` of a method, or None.

    Args:
      pairs: (`Clock` of the method, of a run without augmentation) at equal images and seed; those
        where the latter has no tau_mem do not count, nor where the former copied at its first look.
    """
    some = [
        (own, plain)
        for own, plain in pairs
        if plain.left and not own.at_once and (own.left or own.below)
    ]
    if not some:
        return None
    logs = np.log([(own.tau_mem or own.below) / plain.tau_mem for own, plain in some])
    bounds = sum(not own.left or plain.at_once for own, plain in some)
    interval = None
    if len(logs) > 1 and not bounds:
        from scipy import stats

        wide = stats.t.ppf(0.975, len(logs) - 1) * logs.std(ddof=1) / math.sqrt(len(logs))
        interval = (math.exp(logs.mean() - wide), math.exp(logs.mean() + wide))
    return Factor(math.exp(logs.mean()), interval, len(some), bounds, len(pairs) - len(some))
