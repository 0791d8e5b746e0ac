"""Is the model copying its training images? On pixels or on features: [N, ...] each.

Distances are Euclidean. Rules that compare the nearest training image with the next one mean
*different* images: an image, its mirror image (where the model is trained with flips), and others
that look like it are versions of one, and a copy of any is a copy. A `Gallery` knows which.
"""

import dataclasses

import numpy as np

from tada_jax.data.cache import digest
from tada_jax.metrics import intervals
from tada_jax.metrics.neighbours import nearest, nearest_sets, rows

MOST_NEW = 500  # held-out images that tell what more training images make of a distance
RATIO = 1.0 / 3.0  # of the two nearest distances, below which a sample counts as a copy


@dataclasses.dataclass(frozen=True, eq=False)
class Gallery:
    """Real images among which neighbours are looked for, all versions of an image being one.

    Attributes:
      points: [M, ...], every version but for mirror images; those of an image one after the other.
      starts: int [G], the first version of each image.
      mirrored: whether the mirror image of a version is one too; it is not kept.
    """

    points: np.ndarray
    starts: np.ndarray
    mirrored: bool = False

    def __len__(self):
        """How many different images."""
        return len(self.starts)

    def nearest(self, queries, k=1):
        """(distances float64 [N,k] to the k nearest images, indices [N,k] of their versions)."""
        return nearest_sets(queries, self.points, self.starts, k, mirrored=self.mirrored)

    def shown(self, queries, versions):
        """The versions [N,k] as [N,k, ...], each the way round in which it is nearer a query."""
        points = self.points[versions]
        if not self.mirrored:
            return points
        turned, queries = points[:, :, :, ::-1], np.asarray(queries, np.float64)[:, None]
        apart = [np.square(each - queries).sum((2, 3, 4)) for each in (points, turned)]
        return np.where((apart[1] < apart[0])[:, :, None, None, None], turned, points)

    def versions(self, most, seed=0):
        """At most so many of the versions, drawn from all, mirror images among them; [V, ...]."""
        count = len(self.points) * (2 if self.mirrored else 1)
        chosen = np.arange(count)
        if count > most:
            chosen = np.sort(np.random.default_rng(seed).choice(count, most, replace=False))
        straight, turned = (chosen[chosen < len(self.points)], chosen[chosen >= len(self.points)])
        if not self.mirrored:
            return self.points[straight]
        mirrored = self.points[turned - len(self.points)][:, :, ::-1]
        return np.concatenate([self.points[straight], mirrored])

    def some(self, n, rng):
        """The `Gallery` of n of the images, drawn without replacement by a numpy generator."""
        ends = np.append(self.starts[1:], len(self.points))
        chosen = np.sort(rng.choice(len(self), n, replace=False))
        versions = [np.arange(self.starts[i], ends[i]) for i in chosen]
        starts = np.cumsum([0, *map(len, versions[:-1])])
        return Gallery(self.points[np.concatenate(versions)], starts, self.mirrored)


def gallery(images, *, mirrored=False, alike=()):
    """The `Gallery` of images; equal ones are one image.

    Args:
      images: [N, ...]; [N,H,W,C] if mirrored.
      mirrored: whether their mirror images are versions of them.
      alike: int [P,2], pairs of positions that look alike; what is alike to one another in any
        number of steps is one image.
    """
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    images = np.asarray(images)
    n, first = len(images), {}
    equal = [(first.setdefault(digest(x.tobytes()), i), i) for i, x in enumerate(images)]
    pairs = np.array([*equal, *np.asarray(alike, int).reshape(-1, 2).tolist()])
    _, image = connected_components(
        coo_matrix((np.ones(len(pairs)), pairs.T), shape=(n, n)), directed=False
    )
    once = np.array(sorted(set(first.values())), int)  # an equal version adds nothing
    order = np.argsort(image[once], kind="stable")
    _, starts = np.unique(image[once][order], return_index=True)
    return Gallery(images[once[order]], starts, mirrored)


def copies(samples, train, *, ratio=RATIO):
    """Which samples are copies: much nearer to one training image than to any different one.

    d1 < ratio d2, with the distances to the two nearest training images (Yoon et al. 2023).

    Args:
      samples: [N, ...].
      train: a `Gallery` of at least 2 images.
      ratio: threshold.

    Returns:
      bool [N]; its mean is the "NN ratio" share.
    """
    distance, _ = train.nearest(samples, 2)
    return distance[:, 0] < ratio * distance[:, 1]


def copy_margin(samples, train, test, *, repeats=10, seed=0):
    """Mean distance to the nearest training image over that to the nearest held-out image.

    1 if the samples know no training image better than any other real one; 0 if all are copies.
    Among more images one is nearer. So of more held-out than training images as many are drawn,
    `repeats` times. Of more training images all count, since what was copied may be any of them,
    and the distance is lengthened as that of held-out images to as many drawn ones is; or the
    samples' own to those is taken if it is shorter, as it is of samples that are like no real
    image, to which more are hardly nearer. Both must be mirrored, or neither.

    Args:
      samples: [N, ...].
      train, test: `Gallery`s.
      repeats: random subsets of the larger set.
      seed: of the subsets.

    Returns:
      A float; infinite if every sample equals a held-out image, NaN if a training image too.
    """
    rng, n = np.random.default_rng(seed), min(len(train), len(test))

    def far(queries, images):
        return images.nearest(queries)[0].mean()

    def far_from_some(queries, images):
        if len(images) == n:
            return far(queries, images)
        return np.mean([far(queries, images.some(n, rng)) for _ in range(repeats)])

    to_train, to_test = far(samples, train), far_from_some(samples, test)
    if len(train) > n:
        new = test.points[np.sort(rng.permutation(test.starts)[:MOST_NEW])]
        every, few = far(new, train), far_from_some(new, train)
        as_few = to_train * few / every if every > 0 else np.inf
        to_train = min(as_few, far_from_some(samples, train))
    if to_test > 0:
        return float(to_train / to_test)
    return float("inf") if to_train > 0 else float("nan")


def authenticity(samples, train):
    """AuthPct (Alaa et al. 2022): share of samples that are further from their training image.

    A sample is authentic if its nearest training image x* has a different training image nearer
    than the sample: d(g, x*) > d(x*, nearest different). About 0.5 or more for new images, 0 for
    copies.

    Args:
      samples: [N, ...].
      train: a `Gallery` of at least 2 images.

    Returns:
      bool [N]; the mean is AuthPct.
    """
    distance, version = train.nearest(samples)
    unique, inverse = np.unique(version[:, 0], return_inverse=True)
    apart = train.nearest(train.points[unique], 2)[0][:, 1]  # the nearest is x* itself
    return distance[:, 0] > apart[inverse]


def data_copying(samples, train, test, *, cells=None, seed=0):
    """C_T (Meehan, Chaudhuri & Dasgupta 2020): are samples nearer to the training set than others?

    In each cell of a partition of space (k-means of the training set) the distances to the training
    images in it, of samples and of held-out images, are compared by a Mann-Whitney U, standardised;
    cells are averaged by their share of held-out images. Below about -3: copying; above 3: the
    samples stay away from the training images (underfitting).

    Args:
      samples: [N, ...].
      train, test: [M, ...], mirror images included where the model is trained with flips.
      cells: of the partition; by default one for each 50 training images, at most 10. Cells with
        fewer than 10 samples, held-out images or training images count nothing.
      seed: of k-means.

    Returns:
      A float; NaN if no cell has enough of all three.
    """
    from sklearn.cluster import KMeans

    samples, train, test = rows(samples), rows(train), rows(test)
    different = len({row.tobytes() for row in train})
    cells = min(cells or int(np.clip(len(train) // 50, 1, 10)), different)
    means = KMeans(cells, n_init=4, random_state=seed).fit(train)
    total = weight = 0.0
    members = [means.predict(x) for x in (samples, train, test)]
    for cell in range(cells):
        in_cell = [x[m == cell] for x, m in zip((samples, train, test), members)]
        if min(map(len, in_cell)) < 10:
            continue
        drawn, known, held_out = in_cell
        z = _rank_z(nearest(drawn, known)[0][:, 0], nearest(held_out, known)[0][:, 0])
        total, weight = total + len(held_out) * z, weight + len(held_out)
    return total / weight if weight else float("nan")


def _rank_z(a, b):
    """Standardised Mann-Whitney U: positive if a tends to be larger than b; ties count half."""
    from scipy.stats import rankdata

    m, n = len(a), len(b)
    u = rankdata(np.concatenate([a, b]))[:m].sum() - m * (m + 1) / 2
    return float((u - m * n / 2) / np.sqrt(m * n * (m + n + 1) / 12))


def denoising_gap(train, test, width=2.0, fewest=10):
    """Held-out minus training loss by log SNR: what the network knows of its images alone.

    Args:
      train, test: `step.Evaluation`s under the same noise levels.
      width: of the bins, nats.
      fewest: images on either side; bins with fewer are left out.

    Returns:
      {centre of the bin: (gap, 95% interval, held-out images in it)}, from noise to image. What
      counts is images, each with the mean of its losses: an image that was noised many times is
      still one image.
    """
    gaps = {}
    bins = np.floor(test.logsnr / width)
    for b in np.unique(bins):
        of_images = [e.by_image(np.floor(e.logsnr / width) == b) for e in (test, train)]
        if min(map(len, of_images)) >= fewest:
            gap, interval = intervals.of_difference(*of_images)
            gaps[float((b + 0.5) * width)] = gap, interval, len(of_images[0])
    return gaps
