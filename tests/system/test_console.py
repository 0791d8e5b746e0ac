"""Consoles that close, break or were never there; a run outlives them all."""

import errno
import io
import math
import os
import pty
import signal
import struct
import subprocess
import sys

import numpy as np
import pytest

import tada_jax
from tada_jax.system import interrupt, logs
from tests import tiny

ENVIRONMENT = os.environ | {
    "JAX_PLATFORMS": "cpu",
    "XLA_FLAGS": os.environ["XLA_FLAGS"].replace("device_count=8", "device_count=1"),
}


# main.py, but with the network of the fixture `small_networks`.
SMALL = """
import runpy, sys
from tada_jax.model import unet
from tests import tiny
unet.UNet = tiny.SmallNet
sys.argv[0] = "main.py"
runpy.run_path("main.py", run_name="__main__")
"""


def command(*arguments, program=("-c", SMALL)):
    return [sys.executable, *program, "--config=configs/digits_tada.py", *tiny.FLAGS, *arguments]


class Broken(io.StringIO):
    """A stream that fails in a way of its own."""

    def __init__(self, error):
        super().__init__()
        self.error = error

    def write(self, text):
        raise self.error

    def isatty(self):
        raise self.error


@pytest.mark.parametrize(
    "error",
    [
        BrokenPipeError(errno.EPIPE, "Broken pipe"),
        OSError(errno.EIO, "Input/output error"),
        OSError(errno.ENOSPC, "No space left on device"),
        ValueError("I/O operation on closed file."),
    ],
)
def test_whatever_happens_to_a_stream_is_no_exception(error):
    assert logs.say("text", Broken(error)) is False
    progress = logs.Progress(3, unit="step", stream=Broken(error))
    progress.update(1, "note", 1.0)
    progress.say("text")
    progress.end()
    stream = io.StringIO()
    assert logs.say("text", stream) and stream.getvalue() == "text\n"


def test_no_stream_at_all_is_no_exception(monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    assert logs.say("text") is False
    logs.Progress(3, unit="step").say("text")


def test_what_is_ignored_stays_ignored():
    """As under nohup, where SIGHUP must not stop a run."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with interrupt.StopRequest() as stop:
            signal.raise_signal(signal.SIGHUP)
            assert stop.signal is None
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_signal_that_python_has_dropped_is_granted(monkeypatch):
    """As what is raised while garbage is collected, which is printed and forgotten."""

    class Collected:
        def __del__(self):
            signal.raise_signal(signal.SIGTERM)

    dropped = []
    monkeypatch.setattr(sys, "unraisablehook", lambda event: dropped.append(event.exc_type))
    before = {number: signal.getsignal(number) for number in interrupt.SIGNALS}
    try:
        interrupt.end_by_exception()
        Collected()
        assert dropped == [KeyboardInterrupt]
        with pytest.raises(KeyboardInterrupt), interrupt.StopRequest():
            raise AssertionError("training began")
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def events(folder):
    """The TensorBoard events in a folder, from their format: length, its sum, bytes, their sum."""
    from tensorboardX.proto.event_pb2 import Event

    (file,) = folder.iterdir()
    content, found = file.read_bytes(), []
    while content:
        (size,) = struct.unpack("<Q", content[:8])
        found.append(Event.FromString(content[12 : 12 + size]))
        content = content[16 + size :]
    return found


def test_events_hold_what_was_logged(tmp_path, caplog):
    log = logs.Log(tmp_path, first_step=4)
    log.write(6, {"loss": 0.5, "leak": math.nan, "by": {"1.0": 2.0, "3.0": math.inf}})
    log.image(6, "samples", np.zeros((4, 4, 1), np.uint8))
    log.close()
    head, started, *rest = events(tmp_path / "tensorboard")
    assert head.file_version == "brain.Event:2" and started.step == 5  # later ones are hidden
    assert started.session_log.status == started.session_log.START
    (loss,), (by,), (image,) = (event.summary.value for event in rest)
    assert (loss.tag, loss.simple_value) == ("loss", 0.5) and by.tag == "by/1.0"
    assert image.tag == "samples" and image.image.height == 4
    assert not caplog.records  # of numbers that are not finite tensorboardX would warn each time


def test_a_full_disk_is_met_where_events_are_written(tmp_path, monkeypatch):
    """In a thread of tensorboardX' it would be a traceback, and then a wait without end."""
    log = logs.Log(tmp_path, first_step=0)

    def full(event):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(log._events._writer, "write_event", full)
    with pytest.raises(OSError, match="No space"):
        log.write(1, {"loss": 0.5})


def test_a_reader_that_has_seen_enough(tmp_path):
    process = subprocess.Popen(
        command("--dry_run"), cwd=tiny.ROOT, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=-1
    )
    process.stdout.close()  # before anything is written, as `| true` does
    error = process.stderr.read().decode()
    assert process.wait() == 0 and "Traceback" not in error and "Broken" not in error, error


@pytest.mark.usefixtures("whole_network")
def test_a_run_without_any_stream(tmp_path):
    """No file of the run gets the number of a stream, so what is meant for one spoils none."""
    fields = f"--workdir={tmp_path / 'run'}", "--config.method=none"
    arguments = command(*fields, program=("main.py",))  # nothing is opened before it
    done = subprocess.run(
        ["/bin/sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *arguments],
        cwd=tiny.ROOT,
        env=ENVIRONMENT,
    )
    assert done.returncode == 0
    assert tada_jax.load_run(tmp_path / "run").step == 3


def test_a_terminal_that_is_closed_stops_a_run_that_can_go_on(tmp_path):
    path = tmp_path / "run"
    fields = "--config.method=none", "--config.train.total_steps=3000"
    arguments = command(f"--workdir={path}", *fields)
    terminal, stream = pty.openpty()
    on_it = (
        "import os, signal, sys; signal.signal(signal.SIGHUP, signal.SIG_DFL);"  # nohup ignores it
        "os.login_tty(0); os.execv(sys.executable, sys.argv[1:])"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", on_it, *arguments],
        cwd=tiny.ROOT,
        env=ENVIRONMENT,
        stdin=stream,
        stdout=stream,
        stderr=stream,
    )
    os.close(stream)
    seen = b""
    while b"step 2" not in seen and b"error" not in seen:
        seen += os.read(terminal, 4096)
    assert b"error" not in seen, seen
    os.close(terminal)  # SIGHUP, and EIO for whatever is written from now on
    assert process.wait() == 0
    step = tada_jax.load_run(path).step
    assert 3 < step < 3000
    steps = [line["step"] for line in logs.read(path)]
    assert steps[-1] == step
