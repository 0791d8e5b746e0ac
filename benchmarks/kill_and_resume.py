"""Kills a small run at random moments, over and over, and compares what it becomes.

    python benchmarks/kill_and_resume.py --kills=30

A run that is never interrupted and runs that are killed (`kill -9`) and started again by the same
command must end with the same parameters, bit for bit, and the same lines in metrics.jsonl. Prints
in which phase each kill fell, and the count. Every third start finds no compiled programs, so that
kills fall into compilation too.
"""

import argparse
import collections
import json
import os
import pathlib
import random
import shutil
import subprocess
import sys
import tempfile
import time

import jax
import numpy as np

ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
import tada_jax  # noqa: E402

STEPS = 60
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
    "--config.log.eval_every=6",
    "--config.log.sample_every=9",
    "--config.log.checkpoint_every=3",
    "--config.sample.steps=5",
    "--config.sample.count=8",
)


def start(workdir, cache):
    """Starts the run in `workdir`, which continues what is there."""
    environment = os.environ | {
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PLATFORMS": "cpu",
    }
    return subprocess.Popen(
        [sys.executable, "main.py", *FLAGS, f"--workdir={workdir}"],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process):
    """Waits for a run that nobody kills."""
    _, err = process.communicate()
    if process.returncode:
        sys.exit(f"a run failed by itself:\n{err}")


def phase(workdir):
    """What a run was doing, as its files show."""
    checkpoints = workdir / "checkpoints"
    if any(checkpoints.glob("*.orbax-checkpoint-tmp*")):
        return "saving"
    if not (workdir / "strength.png").exists():
        return "starting for the first time"
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    step = json.loads(lines[-1])["step"] if lines else 0
    saved = max((int(p.name) for p in checkpoints.glob("*") if p.name.isdigit()), default=0)
    if step <= saved:
        return "starting, compiling, or just after a checkpoint"
    return "training, evaluating or sampling"


def result(workdir):
    """Parameters (leaves), and the lines of the log without their speeds."""
    run = tada_jax.load_run(workdir)
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").open()]
    for line in lines:
        line.pop("images_per_s", None)
        line.pop("steps_per_s", None)
    return jax.device_get(jax.tree.leaves((run.params, run.ema_params))), lines


def main():
    """Prints the table of phases and whether everything was equal."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)

    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        cache = folder / "cache"
        finish(start(folder / "whole", cache))  # fills the cache
        shutil.rmtree(folder / "whole")
        began = time.monotonic()
        finish(start(folder / "whole", cache))
        longest = time.monotonic() - began
        expected = result(folder / "whole")

        phases, runs, equal, starts = collections.Counter(), 0, 0, 0
        while phases.total() < arguments.kills:
            runs += 1
            workdir = folder / f"killed-{runs}"
            while True:
                starts += 1
                if starts % 3 == 0:
                    shutil.rmtree(cache, ignore_errors=True)
                process = start(workdir, cache)
                if phases.total() < arguments.kills:
                    try:
                        process.wait(timeout=rng.uniform(0.0, longest))
                    except subprocess.TimeoutExpired:
                        process.kill()
                        process.wait()
                        phases[phase(workdir)] += 1
                        continue
                finish(process)
                break
            params, lines = result(workdir)
            same = all(np.array_equal(a, b) for a, b in zip(params, expected[0], strict=True))
            equal += same and lines == expected[1]
            print(f"run {runs}: {'equal' if same else 'DIFFERENT'} after {phases.total()} kills")

    for name, count in phases.most_common():
        print(f"{count:5d} kills while {name}")
    print(
        f"{phases.total()} kills of {runs} runs of {STEPS} steps (uninterrupted: {longest:.0f} s), "
        f"seed {arguments.seed}: {equal} of {runs} ended bit for bit equal, logs included"
    )
    sys.exit(equal != runs)


if __name__ == "__main__":
    main()
