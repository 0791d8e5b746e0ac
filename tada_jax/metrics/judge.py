"""What the samples of a run are measured against, prepared once for a data set.

A `Judge` holds the reference images, their features, and the leak classifiers. `measure` is the
whole of it, `glance` what is cheap enough for the training loop.
"""

import dataclasses
import math
import time

import jax
import jax.numpy as jnp
import numpy as np

from tada_jax import methods
from tada_jax.data import inspection
from tada_jax.data.base import Joined
from tada_jax.data.cache import digest
from tada_jax.methods import METHODS
from tada_jax.metrics import (
    classifier,
    features,
    intervals,
    leakage,
    memorisation,
    quality,
    wasserstein,
)
from tada_jax.setup import build, limits
from tada_jax.system import logs
from tada_jax.system.errors import UserError
from tada_jax.system.pixels import to_float, to_uint8
from tada_jax.training.step import spread

# Real images to score in the samples' place, for each reference; "all" has no others.
_STAND_IN = {"train": "held_out", "held_out": "train", "all": "train"}

FEWEST_HELD_OUT = 10  # images
FEWEST_DIFFERENT = 6  # training images
FOLDS = 2  # of the held-out images, for the leak classifiers
NEIGHBOUR_SIDE = 64  # pixels: larger images are averaged down before they are compared
MOST_IN_CELLS = 10_000  # training images for C_T, as long as they fit `MOST_BYTES` in float64
MOST_BYTES = 2**29  # of what is drawn from a set
GLANCE_IMAGES = 10_000  # training images among which `glance` looks for neighbours


@dataclasses.dataclass(frozen=True)
class Measure:
    """What a number means: its title, and whether it should be low, high, or near a value."""

    title: str
    better: str
    digits: int = 3
    factor: float = 1.0  # what is printed is the value times this


MEASURES = {
    "fd": Measure("Frechet distance", "lower", 2),
    "kid": Measure("KID x 1e3", "lower", 2, 1e3),
    "precision": Measure("precision", "higher"),
    "recall": Measure("recall", "higher"),
    "density": Measure("density", "higher"),
    "coverage": Measure("coverage", "higher"),
    "swd": Measure("sliced Wasserstein x 1e3", "lower", 1, 1e3),
    "copies": Measure("copies, d1 < d2/3 [%]", "lower", 1, 100.0),
    "copy_margin": Measure("copy margin, d(train)/d(held out)", "near 1"),
    "authentic": Measure("AuthPct [%]", "higher", 1, 100.0),
    "c_t": Measure("C_T [standard deviations]", "near 0", 1),
    "gap": Measure("denoising gap x 1e3, held out - train", "near 0", 2, 1e3),
    "leak": Measure("leak: augmented, of the good samples [%]", "near 0", 1, 100.0),
    "neither": Measure("bad: neither real nor augmented [%]", "lower", 1, 100.0),
    "fd_leak": Measure("Frechet leak", "lower", 2),
    "moment": Measure("moments [% of T(x, 1)]", "near 0", 0, 100.0),
}


GLANCES = ("fd", "leak", "copies", "copy_margin")  # what `Judge.glance` finds


@dataclasses.dataclass(frozen=True)
class Number:
    """A measured value with what is needed to read it.

    Attributes:
      value: in units of 1; NaN where it could not be had.
      n: samples behind it.
      reference: what they were compared with, and how many of those.
      extractor: of the features, or what else the images were looked at through.
      real: what real images score in the samples' place, if that makes sense.
      interval: 95%, or None.
      note: anything else in a few words.
    """

    value: float
    n: int
    reference: str
    extractor: str
    real: float | None = None
    interval: tuple[float, float] | None = None
    note: str = ""


class TooFewImages(UserError):
    """A data set of which samples cannot be measured, though it can be trained on."""


class Judge:
    """Measures samples of one data set.

    Training images that stay on disk are read in pieces. What is held of them is what neighbours
    are looked for among, uint8 [N,H,W,C] or float32 averaged down to at most 64 pixels a side,
    once, whether mirrored or not; their features; and at most 512 MiB at a time of what is drawn
    from them. Held-out images are held whole.

    Args:
      config: of the run; the augmentation that may leak is ScoreAug's own if that is its method,
        else that of its section `augment`, whatever its method.
      dataset: with the training images of the run, a subset or all, and the held-out images.
      pool: the same data set with all of its training images.
      mesh: devices for the extractor; by default those of this process. Of several processes, each
        does all of the work.
      extractor: a `features.Extractor`; None: the one that `config.evaluate.extractor` names.
      say: called with a line of text about what takes time.

    Raises:
      TooFewImages: if the data set has too few held-out images, or different training images.
      UserError: if the extractor cannot be had.
    """

    def __init__(self, config, dataset, pool, *, mesh=None, extractor=None, say=None):
        self.config = config
        self._say = say or (lambda text: None)
        self._mesh = mesh or features.local_mesh()
        train, held_out = dataset.train.images, np.asarray(dataset.test.images)
        check(dataset)
        everything = Joined(pool.train.images, held_out)
        self.images = {"train": train, "held_out": held_out}
        if len(everything) > len(train) + len(held_out):
            self.images["all"] = everything
        if config.sample.label is not None:
            raise UserError(
                f"config.sample.label={config.sample.label}: samples of one class cannot be "
                "measured against images of all: leave it out"
            )
        policy = build.augmentation(config)
        self.policy = dataclasses.replace(policy, p=1.0) if policy.ops else None
        self.happens = methods.Plain(self.policy) if policy.ops else None
        if METHODS[config.method].way == "scoreaug":
            self.happens = build.method(config, train.shape[1:]).always()
        self.extractor = extractor or self._named_extractor(pool, everything)
        self.features = {
            name: self.extractor.cached(images, self._mesh) for name, images in self.images.items()
        }
        self._flips = float(build.policy(config).xflip_p) > 0
        alike = inspection.alike(train, mirrored=self._flips)
        self._gallery = self._galleried(train, alike)
        self._held_out_gallery = self._galleried(held_out)
        self._glanced_at = self._gallery  # a part of it, drawn, since sets lie in order of class
        if len(self._gallery) > GLANCE_IMAGES:
            self._glanced_at = self._gallery.some(GLANCE_IMAGES, np.random.default_rng(0))
        if len(self._gallery) < FEWEST_DIFFERENT:
            raise TooFewImages(
                f"measuring needs at least {FEWEST_DIFFERENT} different training images: "
                f"{len(train):,} are only {len(self._gallery)} that do not look alike"
            )
        self._fit_leak_classifiers()

    def title(self, name):
        """The name of a reference with its number of images."""
        words = {"train": "training", "held_out": "held-out", "all": "all"}
        return f"{words[name]} images ({len(self.images[name]):,})"

    def _named_extractor(self, pool, everything):
        c = self.config.evaluate
        if c.extractor == "pixels":
            return features.pixels()
        if c.extractor == "inception":
            return features.inception(c.weights, c.convention)
        if c.extractor == "classifier":
            labels = None
            if pool.num_classes > 1 and pool.train.labels is not None:
                labels = np.concatenate([pool.train.labels, pool.test.labels])
                task = classifier.labels_task(pool.num_classes)
            elif self.policy:
                task = classifier.augmentation_task(self.policy)
            else:
                raise UserError(
                    "config.evaluate.extractor='classifier' needs labels or config.augment.ops, "
                    "and there are neither: choose 'pixels' or 'inception'"
                )
            images, labels = _in_order_of_content(everything, labels)
            return features.fitted(self._fit(task, images, labels), images)
        return features.of_file(c.extractor)

    def _fit(self, task, images, labels=None, seed=0):
        """A `classifier.Fitted`, with a progress bar if it is not in the cache."""
        steps, bar = self.config.evaluate.fit_steps, logs.bar(f"fitting, {task.name}", unit="step")
        options = dict(steps=steps, seed=seed, say=self._say, progress=bar)
        return classifier.fit(task, images, labels, **options)

    def _galleried(self, images, alike=()):
        """The `memorisation.Gallery` of images uint8 [N,H,W,C], large ones averaged down."""
        images = features.reduced(images, NEIGHBOUR_SIDE)
        return memorisation.gallery(images, mirrored=self._flips, alike=alike)

    @property
    def different_images(self):
        """How many different training images there are."""
        return len(self._gallery)

    def nearest_training_images(self, samples, k):
        """The k nearest training images of samples uint8 [N,H,W,C], as they are compared.

        Returns:
          uint8 [N,k,H,W,C]; averaged down and enlarged again where they are large.
        """
        small = features.small(samples, NEIGHBOUR_SIDE)
        _, versions = self._gallery.nearest(small, k)
        shown = np.round(self._gallery.shown(small, versions)).astype(np.uint8)
        h, w = samples.shape[1:3]
        rows, columns = (
            np.minimum(np.arange(side) * reduced // side, reduced - 1)
            for side, reduced in zip((h, w), shown.shape[2:4])
        )
        return shown[:, :, rows][:, :, :, columns]

    # Leakage

    def _fit_leak_classifiers(self):
        """Cross-fits P(real, augmented, neither): no image is judged by a network that knew it."""
        self._judges = []
        if self.happens is None:
            return
        held_out = self.images["held_out"]
        fold = np.random.default_rng(0).permutation(len(held_out)) % FOLDS
        pure = [images_of_kind(held_out, self.happens, kind) for kind in range(3)]
        self.augmented = pure[classifier.KINDS.index("augmented")]
        self._answers = np.empty((3, len(held_out), 3))
        for k in range(FOLDS):
            task = classifier.leak_task(self.happens)
            network = self._fit(task, held_out[fold != k], seed=k)
            judge = features.Extractor(
                name="P(real, augmented, neither)",
                digest=None,
                apply=_probabilities(network),
                params=network.params,
            )
            self._judges.append(judge)
            for answers, images in zip(self._answers, pure):
                answers[fold == k] = judge(images[fold == k], self._mesh)

    def leak(self, samples):
        """The `leakage.Leak` of uint8 samples; None without an augmentation that could leak."""
        if not self._judges:
            return None
        answers = np.mean([judge(samples, self._mesh) for judge in self._judges], 0)
        return leakage.classifier_leak(answers, *self._answers)

    # All together

    def glance(self, samples):
        """Cheap numbers for the log, floats by name, in the units of `MEASURES` times 1.

        Args:
          samples: uint8 [N,H,W,C], a few hundred.

        Returns:
          {"fd", "copies", "copies_real" (that of held-out images), "copy_margin", "leak",
          "neither"}; no "leak" nor "neither" where nothing could leak, and a "leak" of NaN where
          too many samples are neither.
        """
        drawn = quality.gaussian(self.extractor(samples, self._mesh))
        train, held_out = self._glanced_at, self._held_out_gallery
        images, real = (
            features.small(x, NEIGHBOUR_SIDE) for x in (samples, self.images["held_out"])
        )
        scalars = {
            "fd": quality.frechet_distance(drawn, quality.gaussian(self.features["held_out"])),
            "copies": float(memorisation.copies(images, train).mean()),
            "copies_real": float(memorisation.copies(real, train).mean()),
            "copy_margin": memorisation.copy_margin(images, train, held_out, repeats=1),
        }
        leak = self.leak(samples)
        return scalars | ({} if leak is None else {"leak": leak.share, "neither": leak.neither})

    def measure(self, samples):
        """Everything that can be said of samples.

        Args:
          samples: uint8 [N,H,W,C].

        Returns:
          ({key: Number}, {group: seconds}); a key is that of `MEASURES`, with the reference or the
          operation after a slash.

        Raises:
          UserError: if there are too few samples.
        """
        if len(samples) < limits.FEWEST_SAMPLES:
            raise UserError(
                f"{len(samples)} samples are too few to measure: take at least "
                f"{limits.FEWEST_SAMPLES}, better 1,000"
            )
        found, seconds = {}, {}
        for name, part in (
            ("features and quality", self._quality),
            ("sliced Wasserstein", self._wasserstein),
            ("memorisation", self._memorisation),
            ("leakage", self.leakage),
        ):
            mark = time.monotonic()
            found |= part(samples)
            seconds[name] = time.monotonic() - mark
        return found, seconds

    def _quality(self, samples):
        drawn, found = self.extractor(samples, self._mesh), {}
        if not np.isfinite(drawn).all():
            raise UserError(
                f"the extractor {self.extractor.name} gives numbers that are not finite"
            )
        n, dimension = drawn.shape
        biased = f"fewer samples than the {dimension:,} features: biased upwards"
        for name, reference in self.features.items():
            scores, deviation = _quality(drawn, reference)
            real, _ = _quality(self.features[_STAND_IN[name]], reference)
            notes = {
                "fd": biased if n <= dimension else "",
                "kid": "" if math.isnan(deviation) else f"sd of a subset {deviation * 1e3:.2f}",
            }
            limits_of = {
                "fd": _frechet_interval(drawn, reference, scores["fd"]),
                "precision": intervals.of_share(round(scores["precision"] * n), n),
            }
            for key, value in scores.items():
                found[f"{key}/{name}"] = Number(
                    value,
                    n,
                    self.title(name),
                    self.extractor.name,
                    real=None if name == "all" else real[key],
                    interval=limits_of.get(key),
                    note=notes.get(key, ""),
                )
        return found

    def _wasserstein(self, samples):
        found = {}
        for name, images in self.images.items():
            drawn, real = (
                float(np.mean(wasserstein.sliced_wasserstein(x, images)))
                for x in (samples, self.images[_STAND_IN[name]])
            )
            found[f"swd/{name}"] = Number(
                drawn,
                min(len(samples), len(images)),
                self.title(name),
                "patches of 7x7",
                None if name == "all" else real,
            )
        return found

    def _memorisation(self, samples):
        train, held_out, n = self._gallery, self._held_out_gallery, len(samples)
        images, real = (
            features.small(x, NEIGHBOUR_SIDE) for x in (samples, self.images["held_out"])
        )
        mirrored = " and their mirror images" if self._flips else ""
        reference = f"{self.title('train')}{mirrored}"
        both = f"{reference} and {self.title('held_out')}"
        versions = len(self.images["train"]) - len(train)
        note = f"{versions:,} that look like others count as those" if versions else ""

        def share(measure):
            of_samples, of_real = (measure(x, train) for x in (images, real))
            interval = intervals.of_share(of_samples.sum(), n)
            value, best = float(of_samples.mean()), float(of_real.mean())
            return Number(value, n, reference, "pixels", best, interval, note)

        margin = memorisation.copy_margin(images, train, held_out)
        most = max(1000, min(MOST_IN_CELLS, MOST_BYTES // (8 * images[0].size)))
        in_cells = train.versions(most)
        copying = memorisation.data_copying(images, in_cells, real)
        return {
            "copies": share(memorisation.copies),
            "copy_margin": Number(margin, n, both, "pixels", 1.0, note=note),
            "authentic": share(memorisation.authenticity),
            "c_t": Number(copying, n, both, "pixels", 0.0, note=_drawn(len(in_cells), most)),
        }

    def leakage(self, samples):
        """Every measure of leakage of uint8 samples, {key: Number}."""
        leak = self.leak(samples)
        if leak is None:
            return {}
        reference, n = self.title("held_out"), len(samples)
        through = f"leak classifier, AUC {leak.auc:.2f}"
        answers = "; ".join(
            f"{'/'.join(f'{p:.2f}' for p in mean)} {what}"
            for what, mean in (
                ("samples", leak.samples),
                ("real", leak.real),
                ("T(x, 1)", leak.augmented),
            )
        )
        drawn = self.extractor(samples, self._mesh)
        augmented = self.extractor.cached(self.augmented, self._mesh)
        found = {
            "leak": Number(
                leak.share,
                n,
                reference,
                through,
                0.0,
                None if leak.reason else leak.interval,
                leak.reason,
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
                leakage.frechet_leak(drawn, self.features["held_out"], augmented),
                n,
                f"{reference} and T of them",
                self.extractor.name,
                leakage.frechet_leak(self.features["train"], self.features["held_out"], augmented),
            ),
        }
        plain = isinstance(self.happens, methods.Plain)  # ScoreAug's have no statistic of their own
        for op in self.policy.ops if plain else ():
            alone = dataclasses.replace(self.policy, ops=(op,), xflip_p=0.0)
            moved = augmented_images(self.images["held_out"], methods.Plain(alone))
            shift = leakage.moment_shift(op, samples, self.images["held_out"], moved)
            (m, s), (mr, sr), (ma, sa) = shift.samples, shift.real, shift.augmented
            found[f"moment/{op}"] = Number(
                shift.share,
                n,
                reference,
                shift.statistic,
                0.0,
                None,
                f"{m:.3f} +- {s:.3f} samples, {mr:.3f} +- {sr:.3f} real, "
                f"{ma:.3f} +- {sa:.3f} T(x, 1)",
            )
        return found


def copying(lines):
    """A warning in plain words when a run has begun to copy its training images.

    Args:
      lines: dicts of metrics.jsonl, up to the step in question.

    Returns:
      A line of text if the last of them says so and the one before it did not; else None.
    """
    reasons = []
    for sign, needed in ((_losses_part, {"test_mse", "train_mse"}), (_copies_grow, {"copies"})):
        found = [line for line in lines if needed <= line.keys()]
        if len(found) > 1 and found[-1]["step"] == lines[-1]["step"]:
            now, before = sign(found), len(found) > 2 and sign(found[:-1])
            reasons += [now] if now and not before else []
    if not reasons:
        return None
    return (
        f"the model begins to copy its training images: {' and '.join(reasons)}; stop here, take "
        "the best checkpoint, or augment more"
    )


def _losses_part(lines):
    """Whether the loss rises on held-out images and falls on training images; in words, or None."""
    last, lowest = lines[-1], min(lines, key=lambda line: line["test_mse"])
    rise = last["test_mse"] / lowest["test_mse"] - 1.0
    if rise <= 0.02 or last["train_mse"] >= lowest["train_mse"]:
        return None
    return (
        f"the loss on held-out images is {rise:.0%} above that of step {lowest['step']:,}, "
        "and on training images it still falls"
    )


def _copies_grow(lines):
    """Whether clearly more samples count as copies than held-out images; in words, or None."""
    last, real = lines[-1]["copies"], lines[-1]["copies_real"]
    if last <= max(2 * real, real + 0.05, lines[0]["copies"]):
        return None
    return (
        f"{last:.0%} of the samples are copies (of held-out images {real:.0%} would pass as such)"
    )


def _drawn(count, most):
    return f"{count:,} training images, drawn" if count == most else ""


def _quality(drawn, reference):
    """All of `metrics.quality` of features, and the deviation of KID's subsets."""
    kid, deviation = quality.kernel_distance(drawn, reference)
    fd = quality.frechet_distance(quality.gaussian(drawn), quality.gaussian(reference))
    return {"fd": fd, "kid": kid, **quality.manifold(drawn, reference)}, deviation


def check(dataset):
    """Refuses to measure with too few images.

    Raises:
      TooFewImages: if fewer than 10 are held out, or there are fewer than 6 different training
        images.
    """
    held_out, train = len(dataset.test.images), dataset.train.images
    train = np.asarray(train[spread(len(train), 1000)])
    if held_out < FEWEST_HELD_OUT:
        raise TooFewImages(
            f"measuring needs held-out images, and there are {held_out}: raise "
            "config.data.test_fraction, or give the data set a test split"
        )
    if len({image.tobytes() for image in train}) < FEWEST_DIFFERENT:
        raise TooFewImages(
            f"measuring needs at least {FEWEST_DIFFERENT} different training images, and there "
            "are fewer"
        )


def augmented_images(images, method, *, strength=1.0, seed=0):
    """T(x, w) of uint8 images [N,H,W,C], each under a draw of its own; uint8.

    `method`, of `methods.py`, says what T is.
    """

    def moved(key, x):
        return methods.augmented(method, key, x, jnp.full(len(x), strength))

    return _in_batches(images, moved, seed)


def images_of_kind(images, method, kind, *, seed=0):
    """uint8 images [N,H,W,C] as the leak classifier sees them, all of one of `classifier.KINDS`."""

    def view(key, x):
        return classifier.unnoised_view(key, x, jnp.full(len(x), kind), method)

    return _in_batches(images, view, seed)


def _in_batches(images, function, seed):
    """(key, x [B,H,W,C] in [-1, 1]) -> [B,H,W,C], of uint8 images [N,H,W,C]; uint8."""
    some = jax.jit(lambda key, x: to_uint8(function(key, to_float(x))))
    root, batch, done = jax.random.key(seed), min(256, len(images)), []
    for start in range(0, len(images), batch):
        chunk = images[start : start + batch]
        padded = np.resize(chunk, (batch, *chunk.shape[1:]))
        made = some(jax.random.fold_in(root, start), padded)
        done.append(jax.device_get(made)[: len(chunk)])
    return np.concatenate(done)


def _probabilities(network):
    """P(real, augmented, neither) [B,3] of uint8 images, under fixed noise."""

    def apply(params, x):
        x = classifier.noisy(jax.random.key(0), to_float(x))
        return jax.nn.softmax(network.apply(params, x)[0])

    return apply


def _frechet_interval(drawn, reference, value, resamples=30, most_features=256, seed=0):
    """95%, from the deviation over bootstrapped samples; None where that would take too long."""
    if drawn.shape[1] > most_features:
        return None
    rng, fixed = np.random.default_rng(seed), quality.gaussian(reference)
    deviation = np.std(
        [
            quality.frechet_distance(
                quality.gaussian(drawn[rng.integers(len(drawn), size=len(drawn))]), fixed
            )
            for _ in range(resamples)
        ]
    )
    return max(0.0, value - 1.96 * deviation), value + 1.96 * deviation


def _in_order_of_content(images, labels, most=20_000):
    """The examples in an order that does not depend on how they were split.

    At most so many, and fewer where they would take more than `MOST_BYTES`.
    """
    most = min(most, MOST_BYTES // int(np.prod(images.shape[1:])))
    digests = []
    for start in range(0, len(images), 256):
        digests += [digest(image.tobytes()) for image in images[start : start + 256]]
    order = np.argsort(np.array(digests), kind="stable")[:most]
    return images[order], None if labels is None else labels[order]
