"""What orbax says on its own account, in a line each."""

import gc
import logging
import re
import sys
import warnings

_WAITED = re.compile(r"Waiting for previous save to complete took ([\d.]+) seconds")
LONG_S = 10  # that a run may wait for a checkpoint before it is told


class Quiet:
    """While a `Checkpoints` is open: what orbax has to say, in a line each, and no abandoned ends.

    Its failures reach us as exceptions, and its log repeats them as pages of tracebacks; of that
    one line remains. When one array cannot be read or written, it waits for none of the others:
    their coroutines fail later, on their own, and say so on stderr, some of them after all is
    closed. So `main.py` enters for good.
    """

    def __init__(self):
        self._users, self._hook, self._ends = 0, None, 0

    def enter(self):
        """To be called by everyone who opens; the first one changes the process."""
        if self._users == 0:
            self._hook = sys.unraisablehook
            sys.unraisablehook = self._unraisable
            logging.getLogger("absl").addFilter(self._shorten)
            logging.getLogger("asyncio").addFilter(self._is_heard)
        self._users += 1

    def failed(self):
        """To be called where orbax could not read or write: it may have abandoned something."""
        self._ends = 2  # at which to collect: the exception itself may hold it at the first

    def leave(self):
        """The last one leaves everything as it was."""
        self._users -= 1
        if self._users == 0:
            if self._ends:
                self._ends -= 1
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", RuntimeWarning)  # "was never awaited"
                    gc.collect()  # what was abandoned reports now
            sys.unraisablehook = self._hook
            logging.getLogger("absl").removeFilter(self._shorten)
            logging.getLogger("asyncio").removeFilter(self._is_heard)

    def _unraisable(self, event):
        code = getattr(event.object, "cr_code", None)
        abandoned = "orbax" in getattr(code, "co_filename", "")
        # A signal that Python drops is granted all the same: `interrupt.StopRequest`.
        dropped = isinstance(event.exc_value, KeyboardInterrupt)
        if not abandoned and not dropped and str(event.exc_value) != "Event loop is closed":
            self._hook(event)

    @staticmethod
    def _is_heard(record):
        """Not tasks of orbax that failed with nobody waiting: who saves has heard of the first."""
        return "orbax" not in record.getMessage()

    @staticmethod
    def _shorten(record):
        waited = _WAITED.search(record.getMessage())
        if waited and float(waited[1]) < LONG_S:
            return False
        if waited:
            record.msg = f"{waited[1]} s lost in writing: raise config.log.checkpoint_every"
            record.args = ()
            return True
        if "orbax" in record.pathname:
            record.msg = " ".join(record.getMessage().split())[:300].replace("%", "%%")
            record.args, record.exc_info, record.exc_text = (), None, None
        return "orbax" not in record.pathname or record.levelno >= logging.WARNING


orbax = Quiet()
