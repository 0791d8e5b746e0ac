"""A grid of runs shared by one process a core, beside one process on all cores.

    python -m benchmarks.shared_grid [--rounds=2]    # some 10 minutes on 2 idle cores

Both do the same cells of configs/digits_clock.py:small, shortened, by turns; what is compiled and
fitted is so before. Prints the ratio of the times.
"""

import argparse
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

from benchmarks import timing

ROOT = pathlib.Path(__file__).parents[1]
STEPS = 400
COMMAND = (
    sys.executable,
    "main.py",
    "--config=configs/digits_clock.py:small",
    "--mode=compare",
    "--config.compare.methods=('none','tada')",
    "--config.compare.train_sizes=(100,)",
    "--config.compare.seeds=(0,1)",
    f"--config.train.total_steps={STEPS}",
)


def run(folder, cores):
    """Does the grid in a folder, by a process on each of some sets of cores.

    Raises:
      RuntimeError: if one fails.
    """
    running = [
        subprocess.Popen(
            [*COMMAND, f"--workdir={folder}"],
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=lambda own=own: os.sched_setaffinity(0, own),
        )
        for own in cores
    ]
    for process in running:
        _, errors = process.communicate()
        if process.returncode:
            raise RuntimeError(errors[-2000:])


def main():
    """Times both by turns and prints."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=2)
    args = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    ways = {"one process": [set(cores)], "one a core": [{core} for core in cores]}
    seconds = {name: [] for name in ways}
    place = pathlib.Path(tempfile.mkdtemp())
    try:
        for i in range(args.rounds + 1):  # the first round compiles and fits
            for name, own in ways.items():
                folder = place / f"{name.replace(' ', '_')}_{i}"
                mark = time.monotonic()
                run(folder, own)
                if i:
                    seconds[name].append(time.monotonic() - mark)
                    print(f"{name}: {seconds[name][-1]:.0f} s", flush=True)
                shutil.rmtree(folder)
    finally:
        shutil.rmtree(place, ignore_errors=True)
    faster = timing.ratio(seconds, "one a core", "one process")
    text = f"{len(cores)} processes on a core each are {faster:.2f} times as fast"
    timing.show(text, benchmark="shared_grid", steps=STEPS, seconds=seconds, ratio=faster)


if __name__ == "__main__":
    main()
