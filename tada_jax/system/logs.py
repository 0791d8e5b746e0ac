"""What a run writes down while it runs: metrics.jsonl, TensorBoard events, one progress line."""

import contextlib
import errno
import json
import math
import os
import pathlib
import sys
import time

from tada_jax.system.paths import to_json, write_whole


class Log:
    """Scalars of a run, by step, in `metrics.jsonl` and as TensorBoard events.

    A resumed run drops what an interrupted one had written past the checkpoint. Values are floats,
    or dicts of floats; one that is not finite is null in the file, and `notes` says what it was,
    as "inf" or "nan". Only the first of several processes writes; `active` is False in the others.
    """

    def __init__(self, workdir, *, first_step, active=True):
        self._active = active
        if not active:
            return
        self._path = pathlib.Path(workdir) / "metrics.jsonl"
        kept = [line for line in _lines(workdir) if line["step"] <= first_step]
        write_whole(self._path, "".join(map(_as_text, kept)))
        self._events = _Events(pathlib.Path(workdir) / "tensorboard", first_step + 1)

    def write(self, step, scalars):
        """Appends one line of scalars and flushes it to disk."""
        if not self._active:
            return
        with self._path.open("a") as file:
            file.write(_as_text({"step": step, **scalars}))
        for name, value in scalars.items():
            parts = value if isinstance(value, dict) else {"": value}
            for part, number in parts.items():
                self._events.scalar(step, f"{name}/{part}" if part != "" else name, number)

    def image(self, step, name, image):
        """Adds an image uint8 [H,W,C] to the TensorBoard events."""
        if self._active:
            self._events.image(step, name, image)

    def close(self):
        """Flushes and closes the events."""
        if self._active:
            self._events.close()


class _Events:
    """TensorBoard events, written where they arise.

    tensorboardX' own writer has a thread for it; once that has met a full disk, whoever adds to its
    queue waits for good.
    """

    FLUSHED_EVERY = 30.0  # seconds

    def __init__(self, folder, first_step):
        from tensorboardX import summary  # here, because it takes a while to import
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event, SessionLog

        folder.mkdir(parents=True, exist_ok=True)
        self._summary, self._event, self._flushed = summary, Event, time.monotonic()
        self._writer = EventsWriter(str(folder / "events"))
        # What an interrupted session had written of these steps is not shown.
        started = SessionLog(status=SessionLog.START)
        self._writer.write_event(Event(step=first_step, session_log=started))

    def scalar(self, step, name, number):
        """Adds a number, if it is finite: metrics.jsonl says what others were."""
        if math.isfinite(number):
            self._add(step, self._summary.scalar(name, number))

    def image(self, step, name, image):
        """Adds an image uint8 [H,W,C]."""
        self._add(step, self._summary.image(name, image, dataformats="HWC"))

    def _add(self, step, summary):
        event = self._event(step=step, wall_time=time.time(), summary=summary)
        self._writer.write_event(event)
        if time.monotonic() - self._flushed > self.FLUSHED_EVERY:
            self._writer.flush()
            self._flushed = time.monotonic()

    def close(self):
        """Writes what is left."""
        self._writer.close()


def _as_text(line):
    """A line of metrics.jsonl; its `notes` name the numbers that are not finite."""
    notes = dict(line.get("notes", {}))
    for name, value in line.items():
        parts = value.items() if isinstance(value, dict) else [("", value)]
        for part, number in parts:
            if isinstance(number, float) and not math.isfinite(number):
                notes[f"{name}/{part}" if part != "" else name] = str(float(number))
    return to_json(line | ({"notes": notes} if notes else {})) + "\n"


def read(workdir):
    """The lines of a run's metrics.jsonl as dicts, up to the first that is torn or damaged.

    Numbers that are not finite (null, and NaN or Infinity in older files) are left out, as if they
    had not been measured: nothing can be drawn or ranked by them. Of them a line has only `notes`.
    """
    return [_finite(line) for line in _lines(workdir)]


def _finite(line):
    found = {}
    for name, value in line.items():
        if isinstance(value, dict):
            found[name] = _finite(value)
        elif value is not None and not (isinstance(value, float) and not math.isfinite(value)):
            found[name] = value
    return found


def _lines(workdir):
    """The same with None for null."""
    path = pathlib.Path(workdir) / "metrics.jsonl"
    lines = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            found = json.loads(line)
        except json.JSONDecodeError:
            break
        if not (isinstance(found, dict) and "step" in found):
            break
        lines.append(found)
    return lines


def duration(seconds):
    """Seconds as 59s, 12m05s or 3h07m."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds}s"
    if seconds < 3600:
        return f"{seconds // 60}m{seconds % 60:02d}s"
    return f"{seconds // 3600}h{seconds % 3600 // 60:02d}m"


def say(text, stream=None):
    """Writes text and a new line to stderr, or another stream, as far as there is one.

    A terminal that was closed, a pipe whose reader has left, a console that fails: none of that is
    a reason to end a run.

    Returns:
      Whether it could be written.
    """
    return _show(f"{text}\n", sys.stderr if stream is None else stream)


_GONE = (errno.EPIPE, errno.EIO, errno.EBADF, errno.ENXIO)  # a console that will not come back


def _show(text, stream):
    try:
        stream.write(text)
        stream.flush()
    except OSError as e:
        if e.errno in _GONE:  # what is left in its buffer would fail again as the process ends
            with contextlib.suppress(OSError, ValueError):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, stream.fileno())
                os.close(nowhere)
        return False
    except (ValueError, AttributeError):  # closed; None
        return False
    return True


class Progress:
    """One live line on a terminal; where there is none, a plain line every 15 seconds at most.

    Args:
      total: things to be done.
      unit: what they are, as "step".
      stream: where to write; by default stderr.
      active: False writes nothing.
    """

    def __init__(self, total, *, unit, stream=None, active=True):
        self._total, self._unit, self._active = total, unit, active
        self._stream = sys.stderr if stream is None else stream
        self._live = _is_terminal(self._stream)
        self._last = -float("inf")
        self._open = False

    def update(self, done, note, seconds_each):
        """Shows how far it is: a note, and the time left if each thing takes `seconds_each`."""
        now = time.monotonic()
        pause = 0.5 if self._live else 15
        if not self._active or (now - self._last < pause and done < self._total):
            return
        self._last = now
        eta = duration((self._total - done) * seconds_each)
        text = f"{self._unit} {done:,}/{self._total:,}  {note}  ETA {eta}"
        _show(f"\r\x1b[2K{text}" if self._live else f"{text}\n", self._stream)
        self._open = self._live

    def say(self, text):
        """Prints a line of its own, above the live one."""
        self.end()
        if self._active:
            say(text, self._stream)

    def end(self):
        """Leaves the live line as it stands."""
        if self._open:
            _show("\n", self._stream)
            self._open = False


def _is_terminal(stream):
    try:
        return stream.isatty()
    except (OSError, ValueError, AttributeError):
        return False


def bar(title, *, unit):
    """A callback (done, total) that shows a title and how far it is, on stderr."""
    started, shown = time.monotonic(), []

    def update(done, total):
        if not shown:
            shown.append(Progress(total, unit=unit))
        shown[0].update(done, title, (time.monotonic() - started) / max(done, 1))
        if done == total:
            shown[0].end()

    return update
