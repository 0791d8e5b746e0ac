"""Which noise levels are sensitive to augmentation, before anything is trained.

Let D_base and D_w be the posterior means E[x0 | z] under the data and under the data as augmented
with strength w, z = x0 + s n, r = log SNR = ln 1/s^2. By the I-MMSE relation the two distributions
of z drift apart, while noise is taken away, at the rate

    K(r) = d KL(p_base || p_w) / d r = 1/2 snr E ||D_base(z) - D_w(z)||^2      (detectable, nats)

and what a denoiser that was trained on augmented images does to a picture has the size

    V(r) = E ||D_base(z) - D_w(z)||^2 / Var(x0)                                (visible, a share)

A level is sensitive where both are large: below, the noise hides the shift; above, nobody sees it.
`profile` finds both curves from the training images alone, by one of the denoisers of
`posterior.py`; `band` and `freeform` make a schedule of them. `docs/sensitivity.md` explains.
"""

import dataclasses
import functools
import itertools
import json
import time

import jax
import jax.numpy as jnp
import numpy as np

from tada_jax import augment, posterior
from tada_jax.errors import UserError

PROXIES = ("exact", "held_out", "local", "wiener")
ALL = "all"  # the name of the whole policy among those of its operations
STRENGTHS = (1 / 8, 1 / 4, 1 / 2, 3 / 4, 1.0)
STEP = 0.5  # of the grid of noise levels, nats
HIGHEST = 8.0  # its end: there the noise is 2.3 of 255 grey levels
LEAST = 0.02  # it begins where the signal is so much of the noise, all pixels together
MOST_VALUES = 512  # numbers by which posterior means of whole images are compared
PLACES = 64  # pixels at which `local` compares them, ...
PATCH_PIXELS = 4096  # ... fewer if their patches have more pixels than this together, ...
FEWEST_PLACES = 4  # ... but so many
WIDTHS = (0.0, 0.5, 2.0, 8.0, 32.0)  # of points that it may choose of, in variances of the noise
PATCHES = (1, 3, 5, 7, 11, 15, 23, 31, 47, 63)  # sides that it may choose of, pixels
COMPONENTS = 512  # of the covariances of `wiener`
POINTS = 1024  # in a chunk of the sums
SHELL = 2.0  # standard deviations of |n|^2 within which a query lies in the shell of an image


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
        return json.dumps(tree, default=lambda array: array.tolist(), indent=1) + "\n"

    @property
    def names(self):
        """`ALL` and the operations."""
        return tuple(dict.fromkeys(name for name, _ in self.curves))

    def band(self, thresholds, *, name=ALL, w=1.0):
        """The sensitive band [r_rough, r_fine] in native log SNR, or None if no level is.

        From the first to the last crossing of the risk with 1, linear in its logarithm.

        Args:
          thresholds: (K in nats, V as a share), where a level counts as sensitive.
          name: the whole policy or an operation.
          w: strength, of those of the profile.
        """
        return band(self.logsnr, self.risk(thresholds, name, w))

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
        strengths = np.array((0.0, *self.strengths))
        risks = [_of_neighbours(self.risk(thresholds, name, w)) for w in self.strengths]
        roots = np.sqrt(np.maximum([np.zeros_like(risks[0]), *risks], 0.0))  # [W+1, R]
        return np.array([_first_crossing(strengths, root, np.sqrt(budget)) for root in roots.T])


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
    array = lambda values: None if values is None else np.array(values)  # noqa: E731
    curves = {
        (name, w): Curve(**{key: np.array(values) for key, values in fields.items()})
        for name, w, fields in tree["curves"]
    }
    memory = tree["memory"] and Memory(**{k: array(v) for k, v in tree["memory"].items()})
    return Profile(
        logsnr=np.array(tree["logsnr"]),
        strengths=tuple(tree["strengths"]),
        curves=curves,
        proxy=tree["proxy"],
        check=tree["check"] and Check(**tree["check"]),
        memory=memory,
        patches=array(tree["patches"]),
        about=tree["about"],
    )


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


# How images are looked at


@dataclasses.dataclass(frozen=True, eq=False)
class _View:
    """Whole images (size 0), or patches of `size` pixels around `places`.

    Attributes:
      size: side of the patches.
      places: int [L,2].
      mean: image that is subtracted first, [H,W,C]; distances do not change, rounding does.
      scale: of sums over the places, to those over all pixels.
      sketch: by which whole images are compared, or None.
    """

    size: int
    places: np.ndarray
    mean: np.ndarray
    scale: float = 1.0
    sketch: posterior.Sketch | None = None

    def features(self, images):
        """What distances are measured in: [N,H,W,C] -> [L,N,D]."""
        centred = images - self.mean
        if not self.size:
            return centred.reshape(1, len(images), -1)
        return posterior.patches(centred, self.places, self.size)

    def noise(self, noise):
        """Of the same components, for noise [N,H,W,C]."""
        if not self.size:
            return noise.reshape(1, len(noise), -1)
        return posterior.patches(noise, self.places, self.size)

    def values(self, images):
        """What is denoised: [N,H,W,C] -> [L,N,V]."""
        return self.noise_values(images - self.mean)

    def noise_values(self, noise):
        """The same components of noise [N,H,W,C]."""
        if self.size:
            return jnp.moveaxis(noise[:, self.places[:, 0], self.places[:, 1]], 1, 0)
        flat = noise.reshape(1, len(noise), -1)
        return flat if self.sketch is None else _sketched(self.sketch, flat)


@jax.jit
def _sketched(sketch, flat):
    return sketch(flat)


@jax.jit
def _project(flat, matrix):
    with jax.default_matmul_precision("highest"):
        return flat @ matrix


def levels(variance, step=STEP):
    """The grid of log SNR for images of this total variance, ascending.

    It begins where the signal is too weak for any shift: K cannot exceed snr Var / 2.
    """
    lowest = np.floor(np.log(LEAST / max(variance, 1e-6)) / step) * step
    return np.arange(min(lowest, HIGHEST - step), HIGHEST + step / 2, step)


def to_float(images):
    """uint8 0..255 -> float32 in [-1, 1]."""
    return np.asarray(images, np.float32) / 127.5 - 1.0


def moments(images, chunk=1024):
    """Mean and variance of each pixel of uint8 images, [H,W,C] float64, streamed; in [-1, 1]."""
    total, squares = np.zeros(images.shape[1:]), np.zeros(images.shape[1:])
    for start in range(0, len(images), chunk):
        x = to_float(images[start : start + chunk]).astype(np.float64)
        total += x.sum(0)
        squares += (x**2).sum(0)
    mean = total / len(images)
    return mean, np.maximum(squares / len(images) - mean**2, 0.0)


# Augmented copies


@dataclasses.dataclass(frozen=True, eq=False)
class _Kind:
    """An augmentation of which copies are made.

    Attributes:
      name: `ALL` or an operation.
      policy: from which draws come.
      mask: float [k], of the operations' strengths.
      p: with what probability an image is augmented by it.
    """

    name: str
    policy: augment.Policy
    mask: np.ndarray
    p: float


def kinds(policy):
    """The whole policy and each of its operations as `_Kind`s.

    An operation apart fires as often as it does in the policy.
    """
    k = len(policy.ops)
    together = dataclasses.replace(policy, p=1.0) if policy.max_ops else policy
    found = [_Kind(ALL, together, np.ones(k), float(policy.p) if policy.max_ops else 1.0)]
    apart = dataclasses.replace(policy, p=1.0, max_ops=None)
    fired = float(policy.p)
    if policy.max_ops:
        fired *= (1 + min(policy.max_ops, k)) / 2 / k
    return found + [_Kind(op, apart, np.eye(k)[i], fired) for i, op in enumerate(policy.ops)]


@functools.partial(jax.jit, static_argnames="copies")
def _copies(key, numbers, images, w, policy, copies):
    """Augmented copies of images [B,H,W,C], and whether each is more than a flip of its original.

    Equal numbers of the images give equal draws, at every strength.

    Returns:
      (float [B*copies,H,W,C], bool [B*copies]).
    """

    def one(number, i, image):
        draws = augment.draw(jax.random.fold_in(jax.random.fold_in(key, number), i), w, policy)
        flipped = augment.apply(image, {"xflip": draws["xflip"]})
        moved = augment.apply(image, draws)
        return moved, jnp.any(moved != flipped)

    # One vmap, not two: `resample` bounds the memory of the innermost only.
    numbers, number = jnp.repeat(numbers, copies), jnp.tile(jnp.arange(copies), len(images))
    return jax.vmap(one)(numbers, number, jnp.repeat(images, copies, 0))


# The training set in chunks


@dataclasses.dataclass(frozen=True, eq=False)
class _Chunk:
    """Images of the training set, or copies of them.

    Attributes:
      images: float [P,H,W,C].
      log_prior: [P]; -inf where there is nothing.
      numbers: int [P], of the images that they are, or are copies of.
    """

    images: jax.Array
    log_prior: np.ndarray
    numbers: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class _Source:
    """A training set, and what is done to it.

    Attributes:
      images: uint8 [N,H,W,C].
      flip: probability of a mirror image, which belongs to the data.
      copies: augmented ones, of each image.
      key: of their draws.
      tick: called with the number of images that were gone through.
    """

    images: np.ndarray
    flip: float
    copies: int
    key: jax.Array
    tick: "_Ticks"

    def _in_parts(self, size):
        """(numbers, images, weights that sum to 1) of equal length; padded ones weigh nothing."""
        total = len(self.images)
        size = min(size, total)
        for start in range(0, total, size):
            numbers = np.arange(start, start + size)
            weights = (numbers < total) / total
            numbers = np.minimum(numbers, total - 1)
            yield numbers, jnp.asarray(to_float(self.images[numbers])), weights
            self.tick(int((weights > 0).sum()))

    def base(self):
        """The images as they are, with their mirror images if training flips them."""
        for numbers, images, weights in self._in_parts(POINTS // (2 if self.flip else 1)):
            if self.flip:
                images = jnp.concatenate([images, images[:, :, ::-1]])
                weights = np.concatenate([(1 - self.flip) * weights, self.flip * weights])
                numbers = np.concatenate([numbers, numbers])
            yield _Chunk(images, _log(weights), numbers)

    def augmented(self, kind, w):
        """Copies that differ from their originals; their weights sum to the share that do."""
        strengths = jnp.asarray(w * kind.mask, jnp.float32)
        for numbers, images, weights in self._in_parts(max(1, POINTS // self.copies)):
            moved, changed = _copies(self.key, numbers, images, strengths, kind.policy, self.copies)
            weights = np.repeat(weights / self.copies, self.copies) * np.asarray(changed)
            yield _Chunk(moved, _log(weights), np.repeat(numbers, self.copies))


def _log(weights):
    with np.errstate(divide="ignore"):
        return np.log(weights)


@dataclasses.dataclass(frozen=True, eq=False)
class _Levels:
    """Some of the noise levels of a profile, [n] each.

    Attributes:
      index: which.
      logsnr: of them.
      width: variance of the points' Gaussians in units of the noise's.
    """

    index: np.ndarray
    logsnr: np.ndarray
    width: np.ndarray

    def arrays(self):
        """What `posterior.of_points` needs, float32."""
        return jnp.asarray(self.logsnr, jnp.float32), jnp.asarray(self.width, jnp.float32)

    def take(self, index):
        """Some of them."""
        return _Levels(self.index[index], self.logsnr[index], self.width[index])


def _sharp(logsnr):
    """All levels, and the points as points."""
    return _Levels(np.arange(len(logsnr)), logsnr, np.zeros(len(logsnr)))


@dataclasses.dataclass(frozen=True, eq=False)
class _Queries:
    """Images to noise and to denoise.

    Attributes:
      images: float [Q,H,W,C].
      noise: standard normal, the same at every level.
      left_out: int [Q], number of the training image that each must not be compared with, or -1.
    """

    images: np.ndarray
    noise: jax.Array
    left_out: np.ndarray

    def ask(self, chunks, views):
        """`Evidence` for each (view, `_Levels`) of views, and the sum of the weights."""
        asked = [
            (view, at.arrays(), view.features(self.images), view.noise(self.noise))
            for view, at in views
        ]
        totals, weight = [None] * len(asked), 0.0
        for chunk in chunks:
            weight += float(np.exp(chunk.log_prior).sum())
            excluded = self.left_out[:, None] == chunk.numbers
            for i, (view, at, query, noise) in enumerate(asked):
                found = posterior.of_points(
                    query,
                    noise,
                    view.features(chunk.images),
                    view.values(chunk.images),
                    jnp.asarray(chunk.log_prior, jnp.float32),
                    excluded,
                    *at,
                )
                totals[i] = found if totals[i] is None else posterior.merge(totals[i], found)
        return totals, weight


def _queries(images, count, key, *, leave_out):
    """Every so many-th image of uint8 images, as `_Queries`."""
    count = min(count, len(images))
    numbers = np.arange(count) * len(images) // count
    query = to_float(images[numbers])
    noise = jax.random.normal(key, query.shape)
    return _Queries(query, noise, numbers if leave_out else np.full(count, -1))


# The curves


def _contrast(base, other, share, odds):
    """What mixing in other points does to the mean of the points, and to the likelihood.

    Args:
      base: `Evidence` of the data, of weight 1.
      other: of the copies, of weight `share`.
      share: of the copies in the augmented data, in (0, 1].
      odds: share of the copies over their weight.

    Returns:
      (squared length of the difference of the means, ln p_base(z) - ln p_w(z)); float64 [R,L,Q].
    """
    base_z, other_z = (np.asarray(e.log_z, np.float64) for e in (base, other))
    other_z = other_z + np.log(odds)
    base_share = base_z + (np.log1p(-share) if share < 1 else -np.inf)
    mixture = np.logaddexp(base_share, other_z)
    apart = np.sum(np.square(np.asarray(base.mean - other.mean)), -1, dtype=np.float64)
    return np.exp(other_z - mixture) ** 2 * apart, base_z - mixture


def _curve(gap, logsnr, variance):
    """The `Curve` of squared lengths [R,Q], summed over all pixels."""
    count = gap.shape[1]
    mean = gap.mean(1)
    error = gap.std(1, ddof=1) / np.sqrt(count) if count > 1 else np.zeros_like(mean)
    half_snr = 0.5 * np.exp(logsnr)
    return Curve(half_snr * mean, half_snr * error, mean / variance, error / variance)


def profile(
    images,
    policy,
    *,
    proxy="exact",
    strengths=STRENGTHS,
    operations=True,
    held_out=None,
    queries=256,
    copies=4,
    seed=0,
    step=STEP,
    progress=None,
):
    """The `Profile` of a training set and an augmentation; nothing is trained.

    Args:
      images: uint8 [N,H,W,C], in memory or mapped; read in chunks.
      policy: the `augment.Policy`; its flips belong to the data, not to the augmentation.
      proxy: which denoiser: "exact" (of the finite set, asked about its own images), "held_out"
        (the same, asked about images that are left out of it), "local" (of widened patches, left
        out as well; at each level those that denoise images that it does not know best), "wiener".
      strengths: w of the curves; w = 1 should be among them.
      operations: whether each operation is looked at apart too.
      held_out: uint8 images for `Memory.coverage`, or None.
      queries: images that are noised and denoised; a quarter of them by "local".
      copies: augmented copies of each image, draws of their own each.
      seed: of noise, draws and places.
      step: of the grid, nats.
      progress: called as progress(done, total), in images.

    Returns:
      A `Profile`.

    Raises:
      UserError: if there is nothing to compare: no operation, or fewer than two different images.
    """
    if proxy not in PROXIES:
        raise UserError(
            f"config.sensitivity.proxy={proxy!r} is unknown: choose one of {', '.join(PROXIES)}"
        )
    if not policy.ops:
        raise UserError("config.augment.ops is empty: no noise level is sensitive to nothing")
    mean, spread = moments(images)
    mean, variance = mean.astype(np.float32), float(spread.sum())
    if variance < 1e-6 * mean.size:
        raise UserError("the training images are all alike: no noise level can be told from others")
    started = time.monotonic()
    wanted = [(kind, w) for kind in kinds(policy)[: None if operations else 1] for w in strengths]
    passes = {"exact": 1, "held_out": 3, "local": 3, "wiener": 7}[proxy] + bool(
        held_out is not None
    )
    tick = _Ticks(progress, len(images) * (len(wanted) + passes))
    key_copies, key_noise = jax.random.split(jax.random.key(seed))
    source = _Source(images, float(policy.xflip_p), copies, key_copies, tick)
    logsnr = levels(variance, step)
    short = posterior.sketch(mean.size, MOST_VALUES, seed=seed)
    whole = _View(0, np.zeros((1, 2), int), mean, sketch=short)

    own = _queries(images, queries, key_noise, leave_out=False)
    base, gap, check = _check(source, own, whole, kinds(policy)[0], logsnr)
    memory = Memory(
        np.exp(np.asarray(base.peak - base.log_z, np.float64)).mean((1, 2)),
        _coverage(source, held_out, len(own.images), whole, logsnr, seed),
    )
    sides = None
    if proxy == "wiener":
        gaps = _wiener_gaps(source, mean, wanted, logsnr, seed)
    elif proxy == "local":
        some = _queries(images, max(16, queries // 4), key_noise, leave_out=True)
        views, bases, sides = _local_views(source, some, whole, spread.sum(-1), logsnr, seed)
        gaps = _gaps(source, some, views, bases, wanted, len(logsnr))
    elif proxy == "held_out":
        some = _queries(images, queries, key_noise, leave_out=True)
        bases, _ = some.ask(source.base(), [(whole, _sharp(logsnr))])
        gaps = _gaps(source, some, [(whole, _sharp(logsnr))], bases, wanted, len(logsnr))
    else:
        some, known = own, {(ALL, 1.0): gap}
        missing = [(kind, w) for kind, w in wanted if (kind.name, w) not in known]
        views = [(whole, _sharp(logsnr))]
        gaps = known | _gaps(source, own, views, [base], missing, len(logsnr))
        gaps = {(kind.name, w): gaps[kind.name, w] for kind, w in wanted}
    about = {
        "images": len(images),
        "queries": 0 if proxy == "wiener" else len(some.images),
        "copies": copies,
        "seed": seed,
        "seconds": round(time.monotonic() - started, 1),
    }
    curves = {name: _curve(gap, logsnr, variance) for name, gap in gaps.items()}
    return Profile(logsnr, tuple(strengths), curves, proxy, check, memory, sides, about)


class _Ticks:
    """Counts images for a progress bar."""

    def __init__(self, progress, total):
        self._progress, self._total, self._done = progress, total, 0

    def __call__(self, count):
        self._done += count
        if self._progress:
            self._progress(min(self._done, self._total), self._total)


def _gaps(source, queries, views, bases, wanted, count):
    """{(name, w): squared gaps [R,Q]}.

    Args:
      source, queries: of the profile.
      views: [(view, the `_Levels` that it serves)]; all of them together are R levels.
      bases: `Evidence` of the data for each of them.
      wanted: [(kind, w)].
      count: R.
    """
    found = {}
    for kind, w in wanted:
        others, changed = queries.ask(source.augmented(kind, w), views)
        gaps = np.zeros((count, len(queries.images)))
        if changed:
            share = kind.p * changed
            for (view, at), base, other in zip(views, bases, others):
                apart = _contrast(base, other, share, kind.p)[0].sum(1) * view.scale
                gaps[at.index] = apart / (1.0 + at.width[:, None]) ** 2
        found[kind.name, w] = gaps
    return found


def _local_views(source, queries, whole, spread, logsnr, seed):
    """At each level, patches of the side and points of the width that denoise unknown images best.

    Returns:
      ([(view, `_Levels`)], the base evidence of each, [side, width] of each level [R,2]; the side
      of whole images is 0).
    """
    pixels = np.argwhere(spread > 0)  # those of a frame that never changes say nothing
    if len(pixels) > PLACES:
        pixels = np.random.default_rng(seed).permutation(pixels)[:PLACES]
    views = [whole]
    for side in (side for side in PATCHES if side < 2 * min(spread.shape) - 1):
        places = pixels[: max(FEWEST_PLACES, PATCH_PIXELS // side**2)]
        scale = spread.sum() / spread[places[:, 0], places[:, 1]].sum()
        views.append(_View(side, places, whole.mean, float(scale)))
    everything = np.arange(len(logsnr))
    asked = [
        (view, _Levels(everything, logsnr, np.full(len(logsnr), width)))
        for view, width in itertools.product(views, WIDTHS)
    ]
    bases, _ = queries.ask(source.base(), asked)
    errors = [_denoising_error(queries, *a, base) for a, base in zip(asked, bases)]
    best, chosen, kept = np.argmin(errors, 0), [], []
    for number in np.unique(best):
        index = np.flatnonzero(best == number)
        view, at = asked[number]
        chosen.append((view, at.take(index)))
        kept.append(jax.tree.map(lambda a, index=index: a[index], bases[number]))
    return chosen, kept, np.array([(asked[i][0].size, asked[i][1].width[0]) for i in best])


def _denoising_error(queries, view, at, base):
    """Mean squared error of the posterior means of queries, all pixels together, [R].

    The mean of a Gaussian of variance width s^2 around a point lies between it and z.
    """
    off = base.mean - view.values(jnp.asarray(queries.images))  # of the points' mean
    noise, width = view.noise_values(queries.noise), at.width.reshape(-1, 1, 1, 1)
    scale = width * np.exp(-0.5 * at.logsnr.reshape(-1, 1, 1, 1))
    error = np.asarray((off + scale * noise) / (1.0 + width), np.float64)
    return np.square(error).sum((1, 3)).mean(1) * view.scale


def _check(source, queries, whole, kind, logsnr):
    """The exact identities at w = 1, of whole images, none left out.

    Returns:
      (base evidence, squared gaps [R,Q], `Check`).
    """
    asked, n = [(whole, _sharp(logsnr))], len(queries.images)
    (base,), _ = queries.ask(source.base(), asked)
    (other,), changed = queries.ask(source.augmented(kind, 1.0), asked)
    share, gap, divergence = kind.p * changed, np.zeros((len(logsnr), n)), np.zeros(n)
    if changed:
        gap, divergence = _contrast(base, other, share, kind.p)
        gap, divergence = gap[:, 0], divergence[-1, 0]
    each = np.trapezoid(0.5 * np.exp(logsnr)[:, None] * gap, logsnr, axis=0)
    check = Check(
        integral=float(each.mean()),
        divergence=float(divergence.mean()),
        limit=float(-np.log1p(-share)) if share < 1 else float("inf"),
        error=float(each.std(ddof=1) / np.sqrt(n)),
        divergence_error=float(divergence.std(ddof=1) / np.sqrt(n)),
        share=changed,
    )
    return base, gap, check


def _coverage(source, held_out, count, whole, logsnr, seed):
    """C_s: the share of noised held-out images that lie in the shell of a training image, [R]."""
    if held_out is None or not len(held_out):
        return None
    key = jax.random.fold_in(jax.random.key(seed), 1)
    queries = _queries(held_out, count, key, leave_out=False)
    (base,), _ = queries.ask(source.base(), [(whole, _sharp(logsnr))])
    prior = max(source.flip, 1 - source.flip) / len(source.images)
    # The largest term is ln prior + snr z.x - snr |x|^2 / 2: the squared distance follows.
    nearest = np.asarray(base.peak, np.float64)[:, 0] - np.log(prior)
    x, n = (
        np.asarray(a, np.float64)[0]
        for a in (whole.features(queries.images), whole.noise(queries.noise))
    )
    snr = np.exp(logsnr)[:, None]
    squared = snr * (x**2).sum(-1) + 2 * np.sqrt(snr) * (x * n).sum(-1) + (n**2).sum(-1)
    distance = squared - 2.0 * nearest  # in units of the noise
    size = x.shape[-1]
    return (distance <= size + SHELL * np.sqrt(2.0 * size)).mean(1)


# Wiener


def _wiener_gaps(source, mean, wanted, logsnr, seed):
    """Gaps of Gaussians with the mean and covariance of the images, and of the mixture; [R,1]."""
    basis = _basis(source, mean, wanted[0][0], seed)
    base, found = _moments(source.base(), mean, basis), {}
    for kind, w in wanted:
        first, second, weight = _moments(source.augmented(kind, w), mean, basis)
        keep = 1.0 - kind.p * weight
        mixed = (
            keep * base[0] + kind.p * first,
            keep * base[1] + kind.p * second,
        )
        gaussians = [(m, s - np.outer(m, m)) for m, s in (base[:2], mixed)]
        found[kind.name, w] = posterior.wiener_gap(*gaussians, logsnr)[:, None]
    return found


def _moments(chunks, mean, basis):
    """Weighted sums of x and x x^T in a basis [D,V], and of the weights; float64."""
    size = basis.shape[1]
    first, second, total = np.zeros(size), np.zeros((size, size)), 0.0
    for chunk in chunks:
        weights = np.exp(chunk.log_prior)
        flat = (chunk.images - mean).reshape(len(weights), -1)
        x = np.asarray(_project(flat, basis), np.float64)
        first += weights @ x
        second += (x * weights[:, None]).T @ x
        total += float(weights.sum())
    return first, second, total


def _basis(source, mean, kind, seed, rounds=2):
    """Orthonormal directions [D,V] of the most variance, of the images and their copies at w = 1.

    By subspace iteration (Halko et al. 2011) where there are more than `COMPONENTS` pixels.
    """
    if mean.size <= COMPONENTS:
        return jnp.eye(mean.size)
    found = jax.random.normal(jax.random.key(seed), (mean.size, COMPONENTS))
    for _ in range(rounds):
        total = 0.0
        for chunk in itertools.chain(source.base(), source.augmented(kind, 1.0)):
            flat = (chunk.images - mean).reshape(len(chunk.numbers), -1)
            weights = jnp.asarray(np.exp(chunk.log_prior), jnp.float32)[:, None]
            total = total + _project(flat.T, weights * _project(flat, found))
        found = jnp.linalg.qr(total)[0]
    return found
