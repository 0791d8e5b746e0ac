"""What the samples of a run are measured against, prepared once for a data set.

A `Judge` holds the reference images, their features, and the leak classifiers. `measure` is the
whole of it, `glance` what is cheap enough for the training loop.
"""

import dataclasses
import functools
import math
import time

import jax
import numpy as np

from tada_jax.data import inspection
from tada_jax.data.base import Joined, spread
from tada_jax.data.cache import digest
from tada_jax.methods.plain import Plain
from tada_jax.methods.table import METHODS
from tada_jax.metrics import (
    classifier,
    features,
    intervals,
    leakage,
    memorisation,
    quality,
    wasserstein,
)
from tada_jax.metrics.measures import Number
from tada_jax.metrics.views import augmented_images, images_of_kind
from tada_jax.setup import build, limits
from tada_jax.system import backend, logs
from tada_jax.system.errors import UserError
from tada_jax.system.pixels import to_float

# Real images to score in the samples' place, for each reference; "all" has no others.
_STAND_IN = {"train": "held_out", "held_out": "train", "all": "train"}

FEWEST_HELD_OUT = 10  # images
FEWEST_DIFFERENT = 6  # training images
FOLDS = 2  # of the held-out images, for the leak classifiers
NEIGHBOUR_SIDE = 64  # pixels: larger images are averaged down before they are compared
MOST_IN_CELLS = 10_000  # training images for C_T, as long as they fit `MOST_BYTES` in float64
MOST_BYTES = 2**29  # of what is drawn from a set
GLANCE_IMAGES = 10_000  # training images among which `glance` looks for neighbours


class TooFewImages(UserError):
    """A data set of which samples cannot be measured, though it can be trained on."""


@dataclasses.dataclass(frozen=True, eq=False)
class _LeakJudges:
    """Networks for P(real, augmented, neither), cross-fitted: none judges an image that it knew.

    Attributes:
      networks: a `features.Extractor` for each fold.
      answers: [3,N,3], of the N held-out images as each kind, by the fold that did not know them.
      augmented: the held-out images as the method makes them, uint8 [N,H,W,C].
    """

    networks: list[features.Extractor]
    answers: np.ndarray
    augmented: np.ndarray


class Stopped(Exception):
    """The fit of a small network was given up, because its caller has to end."""


class Judge:
    """Measures samples of one data set.

    What it needs is made when it is first needed: features of the real images, galleries of
    neighbours, and small networks, which take seconds to minutes. `prepare` makes all of it.

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
      stopping: () -> whether to give up a fit, by `Stopped`.

    Raises:
      TooFewImages: if the data set has too few held-out images, or different training images.
      UserError: if the extractor cannot be had.
    """

    def __init__(
        self, config, dataset, pool, *, mesh=None, extractor=None, say=None, stopping=None
    ):
        check(dataset)
        if config.sample.label is not None:
            raise UserError(
                f"config.sample.label={config.sample.label}: samples of one class cannot be "
                "measured against images of all: leave it out"
            )
        self.config, self._pool, self._given_extractor = config, pool, extractor
        self._say, self._stopping = say or (lambda text: None), stopping or (lambda: False)
        self._mesh = mesh or features.local_mesh()
        train, held_out = dataset.train.images, np.asarray(dataset.test.images)
        self._everything = Joined(pool.train.images, held_out)
        self.images = {"train": train, "held_out": held_out}
        if len(self._everything) > len(train) + len(held_out):
            self.images["all"] = self._everything
        policy = build.augmentation(config)
        self.policy = dataclasses.replace(policy, p=1.0) if policy.ops else None
        self.happens = Plain(self.policy) if policy.ops else None
        if METHODS[config.method].kind.own_operations:
            self.happens = build.method(config, train.shape[1:]).always()
        self._flips = float(build.policy(config).xflip_p) > 0

    def prepare(self):
        """Makes all that measuring needs; returns itself.

        Raises:
          Stopped: if it was told to give up.
        """
        _ = self.features, self._glanced_at, self._held_out_gallery, self._leak_judges
        return self

    @functools.cached_property
    def extractor(self):
        """What turns images into features, a `features.Extractor`."""
        return self._given_extractor or self._named_extractor()

    @functools.cached_property
    def features(self):
        """{reference: float [N,D]} of the real images."""
        return {
            name: self.extractor.cached(images, self._mesh) for name, images in self.images.items()
        }

    @functools.cached_property
    def _gallery(self):
        train = self.images["train"]
        made = self._galleried(train, inspection.alike(train, mirrored=self._flips))
        if len(made) < FEWEST_DIFFERENT:
            raise TooFewImages(
                f"measuring needs at least {FEWEST_DIFFERENT} different training images: "
                f"{len(train):,} are only {len(made)} that do not look alike"
            )
        return made

    @functools.cached_property
    def _held_out_gallery(self):
        return self._galleried(self.images["held_out"])

    @functools.cached_property
    def _glanced_at(self):
        """The gallery, or a part of it, drawn, since sets lie in order of class."""
        if len(self._gallery) <= GLANCE_IMAGES:
            return self._gallery
        return self._gallery.some(GLANCE_IMAGES, np.random.default_rng(0))

    def title(self, name):
        """The name of a reference with its number of images."""
        words = {"train": "training", "held_out": "held-out", "all": "all"}
        return f"{words[name]} images ({len(self.images[name]):,})"

    def _named_extractor(self):
        c, pool = self.config.evaluate, self._pool
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
            images, labels = _in_order_of_content(self._everything, labels)
            return features.fitted(self._fit(task, images, labels), images)
        return features.of_file(c.extractor)

    def _fit(self, task, images, labels=None, seed=0):
        """A `classifier.Fitted`, with a progress bar if it is not in the cache."""
        bar = logs.bar(f"fitting, {task.name}", unit="step")

        def progress(done, total):
            bar(done, total)
            if self._stopping():
                raise Stopped

        options = dict(steps=self.config.evaluate.fit_steps, seed=seed, say=self._say)
        return classifier.fit(task, images, labels, progress=progress, **options)

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

    @functools.cached_property
    def _leak_judges(self):
        """The `_LeakJudges`; None where nothing could leak."""
        if self.happens is None:
            return None
        held_out = self.images["held_out"]
        fold = np.random.default_rng(0).permutation(len(held_out)) % FOLDS
        pure = [images_of_kind(held_out, self.happens, kind) for kind in range(3)]
        judges, answers = [], np.empty((3, len(held_out), 3))
        for k in range(FOLDS):
            network = self._fit(classifier.leak_task(self.happens), held_out[fold != k], seed=k)
            judge = features.Extractor(
                name="P(real, augmented, neither)",
                digest=None,
                apply=_probabilities(network),
                params=network.params,
            )
            judges.append(judge)
            for found, images in zip(answers, pure):
                found[fold == k] = judge(images[fold == k], self._mesh)
        return _LeakJudges(judges, answers, pure[classifier.KINDS.index("augmented")])

    def leak(self, samples):
        """The `leakage.Leak` of uint8 samples; None without an augmentation that could leak."""
        if self._leak_judges is None:
            return None
        answers = np.mean([judge(samples, self._mesh) for judge in self._leak_judges.networks], 0)
        return leakage.classifier_leak(answers, *self._leak_judges.answers)

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
        augmented = self.extractor.cached(self._leak_judges.augmented, self._mesh)
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
        plain = isinstance(self.happens, Plain)  # other operations have no statistic of their own
        for op in self.policy.ops if plain else ():
            alone = dataclasses.replace(self.policy, ops=(op,), xflip_p=0.0)
            moved = augmented_images(self.images["held_out"], Plain(alone))
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


def of_plan(planned, say=None, extractor=None):
    """What samples of a run are measured against: a `Judge` that is prepared.

    Args:
      planned: a `setup.plan.Plan`.
      say: called with a line of text about what takes time.
      extractor: instead of the configuration's.

    Raises:
      UserError: if the data set has too few held-out images, or the extractor cannot be had.
    """

    def make():
        judge = Judge(planned.config, planned.dataset, planned.pool, extractor=extractor, say=say)
        return judge.prepare()

    return backend.in_turn(make)


def of_training(planned, say, stopping=None):
    """The same, not prepared; or None and a warning where there are too few images to measure."""
    # A process that gives up alone would leave the others waiting.
    stopping = stopping if jax.process_count() == 1 else None
    try:
        return Judge(planned.config, planned.dataset, planned.pool, say=say, stopping=stopping)
    except TooFewImages as e:
        say(f"warning: no quick metrics of samples: {e}")
        return None


def prepare_in_turn(judge):
    """Prepares a judge in the first process and then, from the cache, in the others.

    Raises:
      TooFewImages: if there are too few different images, in every process.
      Stopped: if it was told to give up.
      UserError: if the extractor cannot be had.
    """

    def prepare_or_reason():
        try:
            judge.prepare()
        except TooFewImages as e:
            return e
        return None

    reason = backend.in_turn(prepare_or_reason)
    if reason:
        raise reason
