"""What was made before is taken again: programs that JAX would trace and compile anew.

A grid of runs in one process, or a test beside another, differ in their seed, their images and what
they log, and in nothing that a compiled step depends on.
"""

import collections
import weakref

_ALL = weakref.WeakSet()


class Memo:
    """The last few things that were made, by what they were made from.

    Args:
      size: how many are kept; a compiled program takes some megabytes.
    """

    def __init__(self, size=4):
        self._size, self._kept = size, collections.OrderedDict()
        _ALL.add(self)

    def get(self, key, make):
        """What `make()` returned for an equal key, or returns now.

        Args:
          key: hashable; all that the result depends on.
          make: without arguments.
        """
        if key not in self._kept:
            self._kept[key] = make()
        self._kept.move_to_end(key)
        while len(self._kept) > self._size:
            self._kept.popitem(last=False)
        return self._kept[key]

    def forget(self):
        """Keeps nothing."""
        self._kept.clear()


def forget():
    """Has every `Memo` keep nothing: for who changes functions that programs were made of."""
    for memo in _ALL:
        memo.forget()
