"""What the samples of a run are measured against, prepared once for a data set.

A `Judge` holds the reference images, their features, and the leak classifiers. `measure` is the
whole of it, `glance` what is cheap enough for the training loop.
"""

import dataclasses
import functools
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
    frechet,
    leakage,
    memorisation,
    scores,
    tint,
)
from tada_jax.metrics.views import images_of_kind
from tada_jax.setup import build, limits
from tada_jax.system import backend, logs
from tada_jax.system.errors import UserError
from tada_jax.system.pixels import to_float

FEWEST_DIFFERENT = 6  # training images
FOLDS = 2  # of the held-out images, for the leak classifiers
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
        self.mesh = mesh or features.local_mesh()
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
        self.flips = float(build.policy(config).xflip_p) > 0

    def prepare(self):
        """Makes all that measuring needs; returns itself.

        Raises:
          Stopped: if it was told to give up.
        """
        # What may refuse the images comes before networks that take minutes.
        _ = self._glanced_at, self.held_out_gallery, self.features, self.leak_judges
        return self

    @functools.cached_property
    def extractor(self):
        """What turns images into features, a `features.Extractor`."""
        return self._given_extractor or self._named_extractor()

    @functools.cached_property
    def features(self):
        """{reference: float [N,D]} of the real images."""
        return {
            name: self.extractor.cached(images, self.mesh) for name, images in self.images.items()
        }

    @functools.cached_property
    def gallery(self):
        """The different training images, a `memorisation.Gallery`."""
        train = self.images["train"]
        made = self._galleried(train, inspection.alike(train, mirrored=self.flips))
        if len(made) < FEWEST_DIFFERENT:
            raise TooFewImages(
                f"measuring needs at least {FEWEST_DIFFERENT} different training images: "
                f"{len(train):,} are only {len(made)} that do not look alike"
            )
        return made

    @functools.cached_property
    def held_out_gallery(self):
        """The held-out images, a `memorisation.Gallery`."""
        return self._galleried(self.images["held_out"])

    @functools.cached_property
    def _glanced_at(self):
        """The gallery, or a part of it, drawn, since sets lie in order of class."""
        if len(self.gallery) <= GLANCE_IMAGES:
            return self.gallery
        return self.gallery.some(GLANCE_IMAGES, np.random.default_rng(0))

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
        images = features.reduced(images, features.NEIGHBOUR_SIDE)
        return memorisation.gallery(images, mirrored=self.flips, alike=alike)

    @property
    def different_images(self):
        """How many different training images there are."""
        return len(self.gallery)

    def nearest_training_images(self, samples, k):
        """The k nearest training images of samples uint8 [N,H,W,C], as they are compared.

        Returns:
          uint8 [N,k,H,W,C]; averaged down and enlarged again where they are large.
        """
        small = features.small(samples, features.NEIGHBOUR_SIDE)
        _, versions = self.gallery.nearest(small, k)
        shown = np.round(self.gallery.shown(small, versions)).astype(np.uint8)
        h, w = samples.shape[1:3]
        rows, columns = (
            np.minimum(np.arange(side) * reduced // side, reduced - 1)
            for side, reduced in zip((h, w), shown.shape[2:4])
        )
        return shown[:, :, rows][:, :, :, columns]

    # Leakage

    @functools.cached_property
    def leak_judges(self):
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
                apply=Probabilities(),
                params=network.params,
            )
            judges.append(judge)
            for found, images in zip(answers, pure):
                found[fold == k] = judge(images[fold == k], self.mesh)
        return _LeakJudges(judges, answers, pure[classifier.KINDS.index("augmented")])

    def leak(self, samples):
        """The `leakage.Leak` of uint8 samples; None without an augmentation that could leak."""
        if self.leak_judges is None:
            return None
        answers = np.mean([judge(samples, self.mesh) for judge in self.leak_judges.networks], 0)
        return leakage.classifier_leak(answers, *self.leak_judges.answers)

    # All together

    def glance(self, samples):
        """Cheap numbers for the log, floats by name, in the units of `MEASURES` times 1.

        Args:
          samples: uint8 [N,H,W,C], a few hundred.

        Returns:
          {"fd", "copies", "copies_real" (that of held-out images), "copy_margin", "leak",
          "neither", "tint" (`tint.sure`)}; no "leak" nor "neither" where nothing could leak, and
          a "leak" of NaN where too many samples are neither.
        """
        drawn = frechet.gaussian(self.extractor(samples, self.mesh))
        train, held_out = self._glanced_at, self.held_out_gallery
        images, real = (
            features.small(x, features.NEIGHBOUR_SIDE) for x in (samples, self.images["held_out"])
        )
        scalars = {
            "fd": frechet.frechet_distance(drawn, frechet.gaussian(self.features["held_out"])),
            "copies": float(memorisation.copies(images, train).mean()),
            "copies_real": float(memorisation.copies(real, train).mean()),
            "copy_margin": memorisation.copy_margin(images, train, held_out, repeats=1),
            "tint": tint.sure(samples, self.images["held_out"]),
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
            ("features and quality", scores.quality_scores),
            ("sliced Wasserstein", scores.wasserstein_scores),
            ("tint", scores.tint_scores),
            ("memorisation", scores.memorisation_scores),
            ("leakage", scores.leakage_scores),
        ):
            mark = time.monotonic()
            found |= part(self, samples)
            seconds[name] = time.monotonic() - mark
        return found, seconds


def check(dataset):
    """Refuses to measure with too few images.

    Raises:
      TooFewImages: if fewer than 10 are held out, or there are fewer than 6 different training
        images.
    """
    held_out, train = len(dataset.test.images), dataset.train.images
    train = np.asarray(train[spread(len(train), 1000)])
    if held_out < inspection.FEWEST_HELD_OUT:
        raise TooFewImages(
            f"measuring needs at least {inspection.FEWEST_HELD_OUT} held-out images, and there are "
            f"{held_out}: raise config.data.test_fraction (for a new run: what is held out stays "
            "so), or give the data set a test split"
        )
    if len({image.tobytes() for image in train}) < FEWEST_DIFFERENT:
        raise TooFewImages(
            f"measuring needs at least {FEWEST_DIFFERENT} different training images, and there "
            "are fewer"
        )


@dataclasses.dataclass(frozen=True)
class Probabilities:
    """(params, uint8 [B,H,W,C]) -> P of each of `classifier.KINDS`, [B,3], under fixed noise."""

    def __call__(self, params, x):
        """As the class says."""
        x = classifier.noisy(jax.random.key(0), to_float(x))
        return jax.nn.softmax(classifier.apply(len(classifier.KINDS), params, x)[0])


def _in_order_of_content(images, labels, most=20_000):
    """The examples in an order that does not depend on how they were split.

    At most so many, and fewer where they would take more than `features.MOST_BYTES`.
    """
    most = min(most, features.MOST_BYTES // int(np.prod(images.shape[1:])))
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
