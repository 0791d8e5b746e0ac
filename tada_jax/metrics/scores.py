"""Every measure of samples, as `Number`s: of quality, memorisation and leakage.

Each function is given a prepared `judge.Judge` and samples uint8 [N,H,W,C], and returns
{key: Number}; a key is that of `measures.MEASURES`, with the reference or the operation after a
slash.
"""

import dataclasses
import math

import numpy as np

from tada_jax.methods.plain import Plain
from tada_jax.metrics import (
    features,
    frechet,
    intervals,
    kid,
    leakage,
    memorisation,
    precision_recall,
    wasserstein,
)
from tada_jax.metrics import tint as tints
from tada_jax.metrics.measures import Number, printed
from tada_jax.metrics.views import augmented_images
from tada_jax.system.errors import UserError

# Real images to score in the samples' place, for each reference; "all" has no others.
_STAND_IN = {"train": "held_out", "held_out": "train", "all": "train"}
MOST_IN_CELLS = (
    10_000  # training images for C_T, as long as they fit `features.MOST_BYTES` in float64
)
FEW_BALLS = 50  # images of a reference, below which precision and density say little


def _at_most(rows, count, seed=0):
    """So many of them, drawn at random: nearly every measure depends on how many there are."""
    if len(rows) <= count:
        return rows
    return rows[np.sort(np.random.default_rng(seed).choice(len(rows), count, replace=False))]


def quality_scores(judge, samples):
    """Frechet and kernel distance, precision, recall, density, coverage, to each reference.

    Raises:
      UserError: if the extractor gives numbers that are not finite.
    """
    drawn, found = judge.extractor(samples, judge.mesh), {}
    if not np.isfinite(drawn).all():
        raise UserError(f"the extractor {judge.extractor.name} gives numbers that are not finite")
    n, dimension = drawn.shape
    biased = f"fewer samples than the {dimension:,} features: biased upwards"
    for name, reference in judge.features.items():
        scores, deviation = _with_deviation(drawn, reference)
        stand_in = _at_most(judge.features[_STAND_IN[name]], n)
        real, _ = _with_deviation(stand_in, reference)
        wide = "balls around so few images reach far: even bad samples may lie inside"
        few = len(reference) < FEW_BALLS
        notes = {
            **dict.fromkeys(("precision", "density"), wide * few),
            "fd": biased if n <= dimension else "",
            "kid": "" if math.isnan(deviation) else f"sd of a subset {deviation * 1e3:.2f}",
        }
        fewer = len(stand_in) if len(stand_in) < n and name != "all" else None
        if fewer:
            alike, _ = _with_deviation(_at_most(drawn, fewer), reference)
            for key in alike.keys() - {"kid"}:  # which has no bias
                of_fewer = f"of {fewer:,} samples {printed(key, alike[key])}"
                notes[key] = "; ".join(filter(None, (notes.get(key), of_fewer)))
        limits_of = {
            "fd": _frechet_interval(drawn, reference, scores["fd"]),
            "precision": intervals.of_share(round(scores["precision"] * n), n),
        }
        for key, value in scores.items():
            found[f"{key}/{name}"] = Number(
                value,
                n,
                judge.title(name),
                judge.extractor.name,
                real=None if name == "all" else real[key],
                interval=limits_of.get(key),
                note=notes.get(key, ""),
                real_n=None if key == "kid" else fewer,
            )
    return found


def wasserstein_scores(judge, samples):
    """Sliced Wasserstein distance of patches to each reference."""
    found = {}
    for name, images in judge.images.items():
        stand_in = _at_most(judge.images[_STAND_IN[name]], len(samples))
        fewer = len(stand_in) if len(stand_in) < len(samples) and name != "all" else None
        drawn, real, alike = (
            None if x is None else float(np.mean(wasserstein.sliced_wasserstein(x, images)))
            for x in (samples, stand_in, _at_most(samples, fewer) if fewer else None)
        )
        found[f"swd/{name}"] = Number(
            drawn,
            min(len(samples), len(images)),
            judge.title(name),
            "patches of 7x7",
            None if name == "all" else real,
            note=f"of {fewer:,} samples {printed('swd', alike)}" if fewer else "",
            real_n=fewer,
        )
    return found


def tint_scores(judge, samples):
    """By how much samples are tinted, and how much more they differ in tone, by channel."""
    held_out, found = judge.images["held_out"], {}
    drawn, real = (tints.tint(images, held_out) for images in (samples, judge.images["train"]))
    for name, of in drawn.items():
        about = (len(samples), judge.title("held_out"), "pixels")
        found[f"tint/{name}"] = Number(of.shift, *about, real[name].shift, of.shift_interval)
        alike = "the held-out images are all of one tone" if math.isnan(of.spread) else ""
        found[f"tint_spread/{name}"] = Number(
            of.spread, *about, real[name].spread, of.spread_interval, alike
        )
    return found


def memorisation_scores(judge, samples):
    """Copies, copy margin, AuthPct and C_T of the training images."""
    train, held_out, n = judge.gallery, judge.held_out_gallery, len(samples)
    images, real = (
        features.small(x, features.NEIGHBOUR_SIDE) for x in (samples, judge.images["held_out"])
    )
    mirrored = " and their mirror images" if judge.flips else ""
    reference = f"{judge.title('train')}{mirrored}"
    both = f"{reference} and {judge.title('held_out')}"
    versions = len(judge.images["train"]) - len(train)
    note = f"{versions:,} that look like others count as those" if versions else ""

    def share(measure):
        of_samples, of_real = (measure(x, train) for x in (images, real))
        interval = intervals.of_share(of_samples.sum(), n)
        value, best = float(of_samples.mean()), float(of_real.mean())
        return Number(value, n, reference, "pixels", best, interval, note)

    margin = memorisation.copy_margin(images, train, held_out)
    finite, equal = math.isfinite(margin), "every sample equals a held-out image"
    most = max(1000, min(MOST_IN_CELLS, features.MOST_BYTES // (8 * images[0].size)))
    in_cells = train.versions(most)
    copying = memorisation.data_copying(images, in_cells, real)
    return {
        "copies": share(memorisation.copies),
        "copy_margin": Number(margin, n, both, "pixels", 1.0, note=note if finite else equal),
        "authentic": share(memorisation.authenticity),
        "c_t": Number(copying, n, both, "pixels", 0.0, note=_of_cells(copying, in_cells, most)),
    }


def leakage_scores(judge, samples):
    """The leak by classifier, by Frechet distances, and by moments of each operation."""
    leak = judge.leak(samples)
    if leak is None:
        return {}
    reference, n = judge.title("held_out"), len(samples)
    through = f"leak classifier, AUC {leak.auc:.2f}"
    answers = "; ".join(
        f"{'/'.join(f'{p:.2f}' for p in mean)} {what}"
        for what, mean in (
            ("samples", leak.samples),
            ("real", leak.real),
            ("T(x, 1)", leak.augmented),
        )
    )
    shifted = tints.sure(samples, judge.images["held_out"])
    tinted = f"tinted by {shifted:.0f} of 255, which counts as augmented"
    drawn = judge.extractor(samples, judge.mesh)
    augmented = judge.extractor.cached(judge.leak_judges.augmented, judge.mesh)
    found = {
        "leak": Number(
            leak.share,
            n,
            reference,
            through,
            0.0,
            None if leak.reason else leak.interval,
            leak.reason or (tinted if shifted >= tints.VISIBLE else ""),
        ),
        "neither": Number(
            leak.neither,
            n,
            reference,
            through,
            0.0,
            leak.neither_interval,
            f"P(real)/P(augmented)/P(neither): {answers}",
        ),
        "fd_leak": Number(
            leakage.frechet_leak(drawn, judge.features["held_out"], augmented),
            n,
            f"{reference} and T of them",
            judge.extractor.name,
            leakage.frechet_leak(judge.features["train"], judge.features["held_out"], augmented),
        ),
    }
    plain = isinstance(judge.happens, Plain)  # other operations have no statistic of their own
    for op in judge.policy.ops if plain else ():
        alone = dataclasses.replace(judge.policy, ops=(op,), xflip_p=0.0)
        moved = augmented_images(judge.images["held_out"], Plain(alone))
        shift = leakage.moment_shift(op, samples, judge.images["held_out"], moved)
        moments = (
            f"{mean:.3f} +- {deviation:.3f} {what}"
            for what, (mean, deviation) in (
                ("samples", shift.samples),
                ("real", shift.real),
                ("T(x, 1)", shift.augmented),
            )
        )
        untold = "too small a change to be told; " if math.isnan(shift.share) else ""
        found[f"moment/{op}"] = Number(
            shift.share,
            n,
            reference,
            shift.statistic,
            0.0,
            None,
            f"{untold}{', '.join(moments)}",
        )
    return found


def _of_cells(copying, train, most):
    if math.isnan(copying):
        return "no cell has 10 each of samples, training and held-out images"
    return f"{len(train):,} training images, drawn" if len(train) == most else ""


def _with_deviation(drawn, reference):
    """All measures of features, and the deviation of KID's subsets."""
    distance, deviation = kid.kernel_distance(drawn, reference)
    fd = frechet.frechet_distance(frechet.gaussian(drawn), frechet.gaussian(reference))
    return {"fd": fd, "kid": distance, **precision_recall.manifold(drawn, reference)}, deviation


def _frechet_interval(drawn, reference, value, resamples=30, most_features=256, seed=0):
    """95%, from the deviation over bootstrapped samples; None where that would take too long."""
    if drawn.shape[1] > most_features:
        return None
    rng, fixed = np.random.default_rng(seed), frechet.gaussian(reference)

    def again():
        chosen = drawn[rng.integers(len(drawn), size=len(drawn))]
        return frechet.frechet_distance(frechet.gaussian(chosen), fixed)

    with intervals.one_thread():
        deviation = np.std([again() for _ in range(resamples)])
    return max(0.0, value - 1.96 * deviation), value + 1.96 * deviation
