"""What every data source returns, and the held-out split of those that bring none."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
    """Images, uint8 [N,H,W,C], and their labels, int32 [N], or None where there are none."""

    images: np.ndarray
    labels: np.ndarray | None

    def take(self, indices: np.ndarray) -> "Split":
        """Returns a copy holding only the examples at `indices`, in that order."""
        return Split(self.images[indices], None if self.labels is None else self.labels[indices])


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """Two splits; `num_classes` is 0 if unlabelled, `source` says where the data came from."""

    name: str
    train: Split
    test: Split
    num_classes: int
    source: str


def hold_out(examples: Split, fraction: float, seed: int) -> tuple[Split, Split]:
    """Splits off `fraction` of each class (rounded), drawn by `seed`; both parts keep their order.

    Returns:
      (train, test). Unlabelled examples count as one class.
    """
    rng = np.random.default_rng((seed, 0))  # stream 0; `load` draws training subsets from stream 1
    count = len(examples.images)
    labels = np.zeros(count) if examples.labels is None else examples.labels
    held_out = np.zeros(count, bool)
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        held_out[members[: round(fraction * len(members))]] = True
    return examples.take(np.flatnonzero(~held_out)), examples.take(np.flatnonzero(held_out))
