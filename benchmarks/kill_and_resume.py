"""Ends small runs at random moments in every way, over and over, and compares what they become.

    python benchmarks/kill_and_resume.py --kills=100

Three kinds of run: with their images on the device, fed from the host, and of two processes. Each
is ended by one of: SIGKILL; SIGTERM; SIGHUP; its terminal being closed; a disk on which files can
no longer grow. Then the same command goes on, until the run is whole. It must end with the same
parameters as one that was never interrupted, bit for bit, the same losses on training and held-out
images, and no checkpoint moved aside. Prints how each kind was ended in which phase, and the count.
Every eighth start finds no compiled programs, so that ends fall into compilation too. Figures are
drawn and samples measured, but XLA optimises as little as in the tests: it is not what is ended.
"""

import argparse
import collections
import contextlib
import dataclasses
import json
import os
import pathlib
import random
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

import jax
import numpy as np

ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
import tada_jax  # noqa: E402
from benchmarks.timing import machine  # noqa: E402
from tada_jax.system import logs  # noqa: E402

STEPS = 24
FLAGS = (
    "--config=configs/digits_tada.py",
    "--config.data.train_size=50",
    "--config.schedule.total_timesteps=30",
    "--config.model.channels=8",
    "--config.model.channel_mult=(1,)",
    "--config.model.head_channels=8",
    "--config.model.norm_groups=4",
    "--config.model.attention_resolutions=()",
    "--config.train.batch_size=16",
    f"--config.train.total_steps={STEPS}",
    "--config.log.every=2",
    "--config.log.eval_every=8",
    "--config.log.sample_every=12",
    "--config.log.checkpoint_every=4",
    "--config.sample.steps=5",
    "--config.sample.count=8",
)
KINDS = {  # flags, and processes
    "resident": (("--config.log.metrics_every=12",), 1),
    "fed from the host": (("--config.log.metrics_every=0", "--config.data.device_gib=0.0"), 1),
    "two processes": (("--config.log.metrics_every=0",), 2),
}
ENDS = ("SIGKILL", "SIGTERM", "SIGHUP", "terminal closed", "full disk")
ON_A_TERMINAL = "import os, sys; os.login_tty(0); os.execv(sys.executable, sys.argv[1:])"


@dataclasses.dataclass
class Started:
    """The processes of a run, and the terminal that they write to."""

    processes: list[subprocess.Popen]
    terminal: int
    shown: bytes = b""

    def wait(self, seconds=None):
        """Whether all of them have ended by themselves within some time."""
        until = None if seconds is None else time.monotonic() + seconds
        while any(p.poll() is None for p in self.processes):
            if until is not None and time.monotonic() > until:
                return False
            self.read()
            time.sleep(0.01)
        self.read()
        return True

    def read(self):
        """Reads what was written; a terminal that nobody reads holds up who writes."""
        with contextlib.suppress(OSError):  # nothing there now, or nobody who writes
            self.shown = (self.shown + os.read(self.terminal, 2**16))[-4000:]

    def end(self, how):
        """Ends the run in one of `ENDS`; a signal goes to one process, a kill to all."""
        if how == "SIGKILL":
            for process in self.processes:
                process.kill()
        elif how in ("SIGTERM", "SIGHUP"):
            self.processes[-1].send_signal(getattr(signal, how))
        elif how == "terminal closed":
            os.close(self.terminal)
            self.terminal = os.open(os.devnull, os.O_RDONLY)
        else:
            for process in self.processes:
                resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (0, 0))


def start(workdir, cache, kind):
    """Starts the run in `workdir`, which continues what is there; a `Started`."""
    flags, count = KINDS[kind]
    environment = os.environ | {
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true",
    }
    if count > 1:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        flags = (*flags, f"--coordinator=127.0.0.1:{port}", f"--num_processes={count}")
    terminal, stream = os.openpty()
    os.set_blocking(terminal, False)
    processes = []
    for number in range(count):
        command = [sys.executable, "main.py", *FLAGS, f"--workdir={workdir}", *flags]
        command += [f"--process_id={number}"] if count > 1 else []
        login = [sys.executable, "-c", ON_A_TERMINAL] if number == 0 else []
        processes.append(
            subprocess.Popen(
                [*login, *command],
                cwd=ROOT,
                env=environment,
                stdin=stream if number == 0 else subprocess.DEVNULL,
                stdout=stream if number == 0 else subprocess.DEVNULL,
                stderr=stream if number == 0 else subprocess.DEVNULL,
            )
        )
    os.close(stream)
    return Started(processes, terminal)


def whole(workdir):
    """Whether a run has done all of its steps and saved the last."""
    return (workdir / "checkpoints" / str(STEPS)).is_dir()


def finish(started, workdir):
    """Waits for a run that nobody ends."""
    started.wait()
    if any(p.returncode for p in started.processes) or not whole(workdir):
        sys.exit(f"a run failed by itself:\n{started.shown.decode(errors='replace')}")


def phase(workdir):
    """What a run was doing, as its files show."""
    checkpoints = workdir / "checkpoints"
    if any(checkpoints.glob("*.orbax-checkpoint-tmp*")):
        return "saving"
    if not (workdir / "strength.png").exists():
        return "starting for the first time"
    lines = logs.read(workdir)
    step = lines[-1]["step"] if lines else 0
    saved = max((int(p.name) for p in checkpoints.glob("*") if p.name.isdigit()), default=0)
    if step <= saved:
        return "starting, compiling, or just after a checkpoint"
    return "training, evaluating or sampling"


def result(workdir):
    """Parameters (leaves), the evaluated losses, and whether a checkpoint was moved aside."""
    run = tada_jax.load_run(workdir)
    losses = [
        json.dumps([line["step"], line["train_mse"], line["test_mse"]])
        for line in logs.read(workdir)
        if "test_mse" in line
    ]
    params = jax.device_get(jax.tree.leaves((run.params, run.ema_params)))
    return params, losses, (workdir / "damaged").exists()


def is_equal(found, expected):
    """Whether two results are equal bit for bit, nothing having been moved aside."""
    same = all(np.array_equal(a, b) for a, b in zip(found[0], expected[0], strict=True))
    return same and found[1] == expected[1] and not found[2]


def main():
    """Prints the table of ends and phases, and whether everything was equal."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=30, help="ends, over the three kinds of run")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the runs inherit it, and nohup ignores it
    rng, ends, failed = random.Random(arguments.seed), collections.Counter(), []
    with tempfile.TemporaryDirectory() as temporary:
        folder, runs = pathlib.Path(temporary), 0
        for number, kind in enumerate(KINDS):
            cache = folder / f"cache-{number}"
            path = folder / f"whole-{number}"
            finish(start(path, cache, kind), path)  # fills the cache
            shutil.rmtree(path)
            began = time.monotonic()
            finish(start(path, cache, kind), path)
            longest = time.monotonic() - began
            expected, starts = result(path), 0
            wanted = arguments.kills * (number + 1) // len(KINDS)
            while ends.total() < wanted:
                runs += 1
                workdir = folder / f"ended-{runs}"
                while not whole(workdir):
                    starts += 1
                    if starts % 8 == 0:
                        shutil.rmtree(cache, ignore_errors=True)
                    started = start(workdir, cache, kind)
                    if ends.total() >= wanted:
                        finish(started, workdir)
                    elif not started.wait(rng.uniform(0.0, longest)):
                        how = rng.choice(ENDS)
                        started.end(how)
                        if not started.wait(90):  # a process that waits for one that is gone
                            started.end("SIGKILL")
                            started.wait()
                        if "Traceback" in started.shown.decode(errors="replace"):
                            failed.append(f"{kind}, {how}: {started.shown[-600:]!r}")
                        ends[kind, how, phase(workdir)] += 1
                    elif any(p.returncode for p in started.processes):
                        finish(started, workdir)  # says what went wrong
                    os.close(started.terminal)
                same = is_equal(result(workdir), expected)
                failed += [] if same else [f"run {runs}, {kind}, is another"]
                print(f"run {runs}, {kind}: {'equal' if same else 'DIFFERENT'}", flush=True)

    print(f"\n{machine()}; seed {arguments.seed}\n\n| run | ended by | while | times |")
    print("|---|---|---|---|")
    for (kind, how, when), count in sorted(ends.items()):
        print(f"| {kind} | {how} | {when} | {count} |")
    print(f"\n{ends.total()} ends of {runs} runs of {STEPS} steps; {len(failed)} went wrong")
    print("\n".join(failed))
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
