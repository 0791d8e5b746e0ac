"""SIGTERM and Ctrl-C as a wish that can be granted at the right moment."""

import signal
import sys
import threading


class StopRequest:
    """While entered, notes SIGTERM and SIGINT in `signal` instead of dying of them.

    A second signal ends the process at once. Does nothing outside the main thread, where Python
    allows no signal handlers.
    """

    SIGNALS = (signal.SIGTERM, signal.SIGINT)

    def __init__(self):
        self.signal = None  # name of the signal that came

    def __enter__(self):
        self._before = {}
        if threading.current_thread() is threading.main_thread():
            self._before = {s: signal.signal(s, self._note) for s in self.SIGNALS}
        return self

    def __exit__(self, *_):
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number, _):
        self.signal = signal.Signals(number).name
        # Python runs handlers between its own instructions only; the system's default ends the
        # process even inside a long compilation.
        for s in self.SIGNALS:
            signal.signal(s, signal.SIG_DFL)
        sys.stderr.write(f"\n{self.signal}: saving after this step; once more to leave at once\n")
