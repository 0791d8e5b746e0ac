"""Ctrl-C and the signals of schedulers and terminals, granted at the right moment."""

import signal
import threading

from tada_jax.system import logs

# SIGHUP comes when the terminal is closed, SIGUSR1 from Slurm shortly before the time is up
# (`sbatch --signal=B:USR1@120`). Not on every system.
SIGNALS = tuple(
    getattr(signal, name)
    for name in ("SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1")
    if hasattr(signal, name)
)


class _Raise:
    """A handler of signals that raises KeyboardInterrupt, and knows that it did."""

    def __init__(self):
        self.came = False

    def __call__(self, number, frame):
        self.came = True
        raise KeyboardInterrupt


def end_by_exception():
    """Until a `StopRequest` is entered, each of `SIGNALS` raises KeyboardInterrupt, as Ctrl-C.

    What is ignored stays so, as SIGHUP under `nohup`.
    """
    handler = _Raise()
    for number in SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, handler)


class StopRequest:
    """While entered, notes one of `SIGNALS` in `signal` instead of dying of it.

    A second signal ends the process at once. What is ignored stays so. Does nothing outside the
    main thread, where Python allows no signal handlers.

    Raises:
      KeyboardInterrupt: on entering, if one of `end_by_exception` was lost: Python drops what is
        raised while it collects garbage, and goes on.
    """

    def __init__(self):
        self.signal = None  # name of the signal that came

    def __enter__(self):
        self._before = {}
        if threading.current_thread() is threading.main_thread():
            self._before = {
                s: signal.signal(s, self._note)
                for s in SIGNALS
                if signal.getsignal(s) != signal.SIG_IGN
            }
        if any(isinstance(h, _Raise) and h.came for h in self._before.values()):
            self.__exit__()
            raise KeyboardInterrupt
        return self

    def __exit__(self, *_):
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number, _):
        self.signal = signal.Signals(number).name
        # Python runs handlers between its own instructions only; the system's default ends the
        # process even inside a long compilation.
        for s in self._before:
            signal.signal(s, signal.SIG_DFL)
        logs.say(f"\n{self.signal}: saving after this step; once more to leave at once")
