"""Which noise levels are sensitive to augmentation, before anything is trained.

Let D_base and D_w be the posterior means E[x0 | z] under the data and under the data as augmented
with strength w, z = x0 + s n, r = log SNR = ln 1/s^2. By the I-MMSE relation the two distributions
of z drift apart, while noise is taken away, at the rate

    K(r) = d KL(p_base || p_w) / d r = 1/2 snr E ||D_base(z) - D_w(z)||^2      (detectable, nats)

and what a denoiser that was trained on augmented images does to a picture has the size

    V(r) = E ||D_base(z) - D_w(z)||^2 / Var(x0)                                (visible, a share)

A level is sensitive where both are large: below, the noise hides the shift; above, nobody sees it.
`profile` finds both curves from the training images alone, by one of the denoisers of
`posterior.py`; `profile.py` makes a schedule of them. `docs/sensitivity.md` explains.
"""

import itertools
import math
import time

import jax
import jax.numpy as jnp
import numpy as np

from tada_jax.band import posterior
from tada_jax.band.evidence import Levels, Source, View, kinds, moments, project, queries_of, sharp
from tada_jax.band.profile import ALL, Check, Curve, Memory, Profile
from tada_jax.system.errors import UserError

PROXIES = ("exact", "held_out", "local", "wiener")
WIENER_FROM = 32  # pixels of a side, from which it is nearest to networks (docs/sensitivity.md)
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
RANGES = {"queries": (16, math.inf), "copies": (1, math.inf), "seed": (0, 2**32 - 1)}
SHELL = 2.0  # standard deviations of |n|^2 within which a query lies in the shell of an image


def levels(variance, step=STEP):
    """The grid of log SNR for images of this total variance, ascending.

    It begins where the signal is too weak for any shift: K cannot exceed snr Var / 2.
    """
    lowest = np.floor(np.log(LEAST / max(variance, 1e-6)) / step) * step
    return np.arange(min(lowest, HIGHEST - step), HIGHEST + step / 2, step)


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


def proxy_for(name, image_shape):
    """The proxy that a name of `PROXIES` or "auto" means for images [H,W,C]."""
    if name != "auto":
        return name
    return "wiener" if min(image_shape[:2]) >= WIENER_FROM else "local"


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
    source = Source(images, float(policy.xflip_p), copies, key_copies, tick)
    logsnr = levels(variance, step)
    short = posterior.sketch(mean.size, MOST_VALUES, seed=seed)
    whole = View(0, np.zeros((1, 2), int), mean, sketch=short)

    own = queries_of(images, queries, key_noise, leave_out=False)
    base, gap, check = _check(source, own, whole, kinds(policy)[0], logsnr)
    memory = Memory(
        np.exp(np.asarray(base.peak - base.log_z, np.float64)).mean((1, 2)),
        _coverage(source, held_out, len(own.images), whole, logsnr, seed),
    )
    sides = None
    if proxy == "wiener":
        gaps = _wiener_gaps(source, mean, wanted, logsnr, seed)
    elif proxy == "local":
        some = queries_of(images, max(16, queries // 4), key_noise, leave_out=True)
        views, bases, sides = _local_views(source, some, whole, spread.sum(-1), logsnr, seed)
        gaps = _gaps(source, some, views, bases, wanted, len(logsnr))
    elif proxy == "held_out":
        some = queries_of(images, queries, key_noise, leave_out=True)
        bases, _ = some.ask(source.base(), [(whole, sharp(logsnr))])
        gaps = _gaps(source, some, [(whole, sharp(logsnr))], bases, wanted, len(logsnr))
    else:
        some, known = own, {(ALL, 1.0): gap}
        missing = [(kind, w) for kind, w in wanted if (kind.name, w) not in known]
        views = [(whole, sharp(logsnr))]
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
      views: [(view, the `Levels` that it serves)]; all of them together are R levels.
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
      ([(view, `Levels`)], the base evidence of each, [side, width] of each level [R,2]; the side
      of whole images is 0).
    """
    pixels = np.argwhere(spread > 0)  # those of a frame that never changes say nothing
    if len(pixels) > PLACES:
        pixels = np.random.default_rng(seed).permutation(pixels)[:PLACES]
    views = [whole]
    for side in (side for side in PATCHES if side < 2 * min(spread.shape) - 1):
        places = pixels[: max(FEWEST_PLACES, PATCH_PIXELS // side**2)]
        scale = spread.sum() / spread[places[:, 0], places[:, 1]].sum()
        views.append(View(side, places, whole.mean, float(scale)))
    everything = np.arange(len(logsnr))
    asked = [
        (view, Levels(everything, logsnr, np.full(len(logsnr), width)))
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
    asked, n = [(whole, sharp(logsnr))], len(queries.images)
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
    queries = queries_of(held_out, count, key, leave_out=False)
    (base,), _ = queries.ask(source.base(), [(whole, sharp(logsnr))])
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
        x = np.asarray(project(flat, basis), np.float64)
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
    # No more directions than there are points have any variance.
    points = len(source.images) * ((2 if source.flip else 1) + source.copies)
    found = jax.random.normal(jax.random.key(seed), (mean.size, min(COMPONENTS, points)))
    for _ in range(rounds):
        total = 0.0
        for chunk in itertools.chain(source.base(), source.augmented(kind, 1.0)):
            flat = (chunk.images - mean).reshape(len(chunk.numbers), -1)
            weights = jnp.asarray(np.exp(chunk.log_prior), jnp.float32)[:, None]
            total = total + project(flat.T, weights * project(flat, found))
        found = jnp.linalg.qr(total)[0]
    return found
