"""Batches of a training set that is too large for the device, read ahead by a thread."""

import queue
import threading

import jax

from tada_jax.data.base import Split


class Feed:
    """Iterates over batches as arrays that are spread over the devices, from `first_step` on.

    A thread reads ahead from the (memory-mapped) images. In a run of several processes each reads
    the examples of its own devices only. An error while reading is raised by `next`.

    Args:
      split: images uint8 [N,H,W,C], labels int32 [N] or None.
      batches: step -> indices [B], as `order.HostBatches`.
      sharding: of a batch, over its first axis.
      first_step: the step of the first batch.
      depth: batches that are held ready.
    """

    def __init__(self, split: Split, batches, sharding, *, first_step: int = 0, depth: int = 2):
        self._split, self._batches, self._sharding = split, batches, sharding
        self._ready = queue.Queue(depth)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._read, args=(first_step,), daemon=True)
        self._thread.start()

    def _read(self, step):
        while not self._closed.is_set():
            try:
                item = self._batch(step)
            except Exception as error:  # whoever waits for the batch shall see it
                item = error
            while not self._closed.is_set():
                try:
                    self._ready.put(item, timeout=0.1)
                    break
                except queue.Full:
                    pass
            step += 1

    def _batch(self, step):
        indices = self._batches(step)

        def spread(rows):
            return jax.make_array_from_callback(
                (len(indices), *rows.shape[1:]),
                self._sharding,
                lambda place: rows[indices[place[0]]],
            )

        labels = self._split.labels
        return spread(self._split.images), None if labels is None else spread(labels)

    def __iter__(self):
        return self

    def __next__(self):
        """(images uint8 [B,H,W,C], labels int32 [B] or None) of the next step."""
        item = self._ready.get()
        if isinstance(item, Exception):
            raise item
        return item

    def close(self):
        """Ends the thread."""
        self._closed.set()
        self._thread.join()
