"""Exact Euclidean distances between two sets of vectors, in blocks that fit memory."""

import numpy as np

_BLOCK_BYTES = 2**27


def rows(array):
    """[N, ...] -> float64 [N, D]."""
    array = np.asarray(array)
    return array.reshape(len(array), -1).astype(np.float64)


def distance_blocks(queries, points):
    """Yields (slice of the queries, float64 [rows, M]): their distances to all points.

    Squares are expanded, |q|^2 + |p|^2 - 2 q.p, in float64: exact for images of whole numbers, so
    the distance of a copy is 0; otherwise to about 1e-8 of the vectors' length.

    Args:
      queries: [N, ...].
      points: [M, ...], of the same size each.
    """
    size = max(1, _BLOCK_BYTES // (8 * max(len(points), 1)))
    columns = max(1, _BLOCK_BYTES // (8 * max(1, int(np.prod(points.shape[1:])))))
    for start in range(0, len(queries), size):
        part = slice(start, start + size)
        block = rows(queries[part])
        distances = np.empty((len(block), len(points)))
        for first in range(0, len(points), columns):
            some = rows(points[first : first + columns])
            squared = (block**2).sum(1)[:, None] + (some**2).sum(1) - 2.0 * (block @ some.T)
            distances[:, first : first + columns] = np.sqrt(np.maximum(squared, 0.0))
        yield part, distances


def nearest(queries, points, k=1, *, among_themselves=False):
    """The k nearest points of each query.

    Args:
      queries: [N, ...].
      points: [M, ...].
      k: how many.
      among_themselves: `queries` are `points`, and none is its own neighbour.

    Returns:
      (distances float64 [N,k], ascending; indices int64 [N,k]).

    Raises:
      ValueError: if there are fewer than k points to choose from.
    """
    available = len(points) - among_themselves
    if k > available:
        raise ValueError(f"{k} nearest neighbours need more than {available} points")
    distances, indices = np.empty((len(queries), k)), np.empty((len(queries), k), np.int64)
    for part, block in distance_blocks(queries, points):
        if among_themselves:
            number = np.arange(len(block))
            block[number, part.start + number] = np.inf
        chosen = np.argpartition(block, k - 1, axis=1)[:, :k]
        found = np.take_along_axis(block, chosen, 1)
        order = np.argsort(found, axis=1, kind="stable")
        distances[part] = np.take_along_axis(found, order, 1)
        indices[part] = np.take_along_axis(chosen, order, 1)
    return distances, indices


def nearest_sets(queries, points, starts, k=1, *, mirrored=False):
    """The k nearest *sets* of points of each query: a set is as near as its nearest member.

    Args:
      queries: [N, ...].
      points: [M, ...], the members of a set one after the other.
      starts: int [G], the first member of each set; ascending, from 0.
      k: how many sets.
      mirrored: whether a point is as near as its mirror image if that is nearer; for [N,H,W,C].

    Returns:
      (distances float64 [N,k], ascending; indices int64 [N,k] of the nearest member in each).

    Raises:
      ValueError: if there are fewer than k sets.
    """
    starts = np.asarray(starts)
    if k > len(starts):
        raise ValueError(f"{k} nearest sets need more than {len(starts)} of them")
    sizes = np.diff(starts, append=len(points))
    member = np.arange(sizes.max())
    distances, indices = np.empty((len(queries), k)), np.empty((len(queries), k), np.int64)
    for part, block in distance_blocks(queries, points):
        if mirrored:  # as far from a mirrored query as its mirror image is from the query
            ((_, turned),) = distance_blocks(np.asarray(queries[part])[:, :, ::-1], points)
            np.minimum(block, turned, out=block)
        of_sets = np.minimum.reduceat(block, starts, axis=1)
        chosen = np.argpartition(of_sets, k - 1, axis=1)[:, :k]
        order = np.argsort(np.take_along_axis(of_sets, chosen, 1), axis=1, kind="stable")
        chosen = np.take_along_axis(chosen, order, 1)
        distances[part] = np.take_along_axis(of_sets, chosen, 1)
        for j, sets in enumerate(chosen.T):
            inside = member < sizes[sets, None]
            places = np.where(inside, starts[sets, None] + member, starts[sets, None])
            nearest_member = np.take_along_axis(block, places, 1).argmin(1)
            indices[part, j] = places[np.arange(len(places)), nearest_member]
    return distances, indices
