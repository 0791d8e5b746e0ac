"""How often Python looks for objects that only refer to each other.

Each look walks through all that is new. By default one follows every 700 new objects; to trace a
training step makes hundreds of thousands that stay, and a tenth of the time to the first step went
into looking for what was not there.
"""

import contextlib
import gc

OFTEN = (700, 10, 10)  # new objects, and looks at the young for one at the older
SELDOM = (20_000, 20, 20)


def collect_seldom():
    """For a process that traces programs: `main.py`'s, not that of a library's user."""
    gc.set_threshold(*SELDOM)


@contextlib.contextmanager
def collecting_often():
    """For reading files: a reader that refers to itself (tifffile's) may hold a file each time."""
    before = gc.get_threshold()
    gc.set_threshold(*OFTEN)
    try:
        yield
    finally:
        gc.set_threshold(*before)
