"""Is the model copying its training images? On pixels or on features: [N, ...] each.

Distances are Euclidean. A set that was trained with horizontal flips should be given with its
mirror images (`with_mirrors`): a mirrored copy is a copy.
"""

import numpy as np

from tada_jax.metrics.neighbours import nearest, rows

RATIO = 1.0 / 3.0  # of the two nearest distances, below which a sample counts as a copy


def with_mirrors(images):
    """Images [N,H,W,C] and, after them, their mirror images; [2N,H,W,C]."""
    return np.concatenate([images, np.asarray(images)[:, :, ::-1]])


def distinct(examples):
    """The examples without exact repetitions, in their order: a repeated one has itself nearby."""
    examples = np.asarray(examples)
    first = {}
    for number, example in enumerate(examples):
        first.setdefault(example.tobytes(), number)
    return examples[list(first.values())]


def copies(samples, train, *, ratio=RATIO):
    """Which samples are copies: much nearer to one training image than to the next.

    d1 < ratio d2, with the distances to the two nearest training images (Yoon et al. 2023).

    Args:
      samples: [N, ...].
      train: [M, ...], without repetitions, M at least 2.
      ratio: threshold.

    Returns:
      bool [N]; its mean is the "NN ratio" share.
    """
    distance, _ = nearest(samples, train, 2)
    return distance[:, 0] < ratio * distance[:, 1]


def copy_margin(samples, train, test, *, repeats=10, seed=0):
    """Mean distance to the nearest training image over that to the nearest held-out image.

    1 if the samples know no training image better than any other real one; towards 0 if they copy.
    The larger of the two sets is thinned out to the size of the smaller, `repeats` times, because
    among more images one is nearer.

    Args:
      samples: [N, ...].
      train, test: [M, ...].
      repeats: random subsets of the larger set.
      seed: of the subsets.

    Returns:
      A float.
    """
    rng, n = np.random.default_rng(seed), min(len(train), len(test))
    near = lambda points: nearest(samples, points)[0].mean()  # noqa: E731
    some = lambda points: np.asarray(points)[rng.choice(len(points), n, replace=False)]  # noqa: E731
    if len(train) == len(test):
        return float(near(train) / near(test))
    if len(train) < len(test):
        return float(near(train) / np.mean([near(some(test)) for _ in range(repeats)]))
    return float(np.mean([near(some(train)) for _ in range(repeats)]) / near(test))


def authenticity(samples, train):
    """AuthPct (Alaa et al. 2022): share of samples that are further from their training image.

    A sample is authentic if its nearest training image x* has another training image nearer than
    the sample: d(g, x*) > d(x*, nearest other). About 0.5 or more for new images, 0 for copies.

    Args:
      samples: [N, ...].
      train: [M, ...], without repetitions, M at least 2.

    Returns:
      bool [N]; the mean is AuthPct.
    """
    distance, index = nearest(samples, train)
    others, _ = nearest(train, train, among_themselves=True)
    return distance[:, 0] > others[index[:, 0], 0]


def data_copying(samples, train, test, *, cells=None, seed=0):
    """C_T (Meehan, Chaudhuri & Dasgupta 2020): are samples nearer to the training set than others?

    In each cell of a partition of space (k-means of the training set) the distances to the training
    images in it, of samples and of held-out images, are compared by a Mann-Whitney U, standardised;
    cells are averaged by their share of held-out images. Below about -3: copying; above 3: the
    samples stay away from the training images (underfitting).

    Args:
      samples: [N, ...].
      train, test: [M, ...].
      cells: of the partition; by default one for each 50 training images, at most 10. Cells with
        fewer than 10 samples, held-out images or training images count nothing.
      seed: of k-means.

    Returns:
      A float; NaN if no cell has enough of all three.
    """
    from sklearn.cluster import KMeans

    samples, train, test = rows(samples), rows(train), rows(test)
    cells = cells or int(np.clip(len(train) // 50, 1, 10))
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


def denoising_gap(train, test, width=2.0):
    """Held-out minus training loss by log SNR: what the network knows of its images alone.

    Args:
      train, test: `training.Evaluation`s under the same noise levels.
      width: of the bins, nats.

    Returns:
      {centre of the bin: (gap, standard error)}, from noise to image.
    """
    gaps = {}
    bins = np.floor(test.logsnr / width).astype(int)
    for b in np.unique(bins):
        losses = [e.mse[np.floor(e.logsnr / width).astype(int) == b] for e in (test, train)]
        mean, variance = ([f(x) for x in losses] for f in (np.mean, _variance_of_mean))
        gaps[float((b + 0.5) * width)] = (float(mean[0] - mean[1]), float(np.sqrt(sum(variance))))
    return gaps


def _variance_of_mean(values):
    return values.var(ddof=1) / len(values) if len(values) > 1 else 0.0
