"""What a run writes down while it runs: metrics.jsonl, TensorBoard events, one progress line."""

import json
import pathlib
import sys
import time

from tensorboardX import SummaryWriter

from tada_jax.paths import write_whole


class Log:
    """Scalars of a run, by step, in `metrics.jsonl` and as TensorBoard events.

    A resumed run drops what an interrupted one had written past the checkpoint.
    """

    def __init__(self, workdir, *, first_step):
        self._path = pathlib.Path(workdir) / "metrics.jsonl"
        kept = [line for line in read(workdir) if line["step"] <= first_step]
        write_whole(self._path, "".join(json.dumps(line) + "\n" for line in kept))
        self._events = SummaryWriter(
            str(pathlib.Path(workdir) / "tensorboard"), purge_step=first_step + 1
        )

    def write(self, step, scalars):
        """Appends one line of scalars (floats) and flushes it to disk."""
        with self._path.open("a") as file:
            file.write(json.dumps({"step": step, **scalars}) + "\n")
        for name, value in scalars.items():
            self._events.add_scalar(name, value, step)

    def image(self, step, name, image):
        """Adds an image uint8 [H,W,C] to the TensorBoard events."""
        self._events.add_image(name, image, step, dataformats="HWC")

    def close(self):
        """Flushes and closes the events."""
        self._events.close()


def read(workdir):
    """The lines of a run's metrics.jsonl as dicts; a torn last line is left out."""
    path = pathlib.Path(workdir) / "metrics.jsonl"
    lines = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            lines.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return lines


def duration(seconds):
    """Seconds as 59s, 12m05s or 3h07m."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds}s"
    if seconds < 3600:
        return f"{seconds // 60}m{seconds % 60:02d}s"
    return f"{seconds // 3600}h{seconds % 3600 // 60:02d}m"


class Progress:
    """One live line on a terminal; where there is none, a plain line every 15 seconds at most."""

    def __init__(self, total_steps, stream=None):
        self._total = total_steps
        self._stream = sys.stderr if stream is None else stream
        self._live = self._stream.isatty()
        self._last = -float("inf")
        self._open = False

    def update(self, step, loss, images_per_s, seconds_per_step):
        """Shows where the run is; `images_per_s` and the ETA count training steps only."""
        now = time.monotonic()
        done = step >= self._total
        if not (self._live or done or now - self._last >= 15):
            return
        self._last = now
        eta = duration((self._total - step) * seconds_per_step)
        text = (
            f"step {step:,}/{self._total:,}  loss {loss:.4f}  {images_per_s:,.0f} images/s  "
            f"ETA {eta}"
        )
        self._stream.write(f"\r\x1b[2K{text}" if self._live else f"{text}\n")
        self._stream.flush()
        self._open = self._live

    def say(self, text):
        """Prints a line of its own, above the live one."""
        self.end()
        self._stream.write(text + "\n")
        self._stream.flush()

    def end(self):
        """Leaves the live line as it stands."""
        if self._open:
            self._stream.write("\n")
            self._open = False
