"""Which measure picks the best checkpoint? Of runs that kept them all.

    python main.py --config=configs/digits_compare.py --mode=compare --workdir=runs/all \
        --config.log.checkpoint_every=250 --config.log.keep_checkpoints=50
    python -m benchmarks.best_checkpoint runs/all/*-seed*

Each of the values of `config.log.best_metric` picks a checkpoint by what a run would have logged:
its losses, or 256 samples of the run's own seed. Picks are judged by 1,000 samples of another
seed. What a checkpoint scored is kept in its run's folder, so that a second call only prints.
"""

import argparse
import dataclasses
import json
import pathlib
import sys

import numpy as np

from benchmarks.timing import machine
from tada_jax.metrics import judge as judges
from tada_jax.metrics.measures import MEASURES
from tada_jax.model.sampler import make_sampler
from tada_jax.setup import limits
from tada_jax.setup.plan import plan
from tada_jax.system import backend, logs
from tada_jax.system.paths import to_json, write_whole
from tada_jax.training.observe import rank
from tada_jax.training.run import load_run

PICKING = tuple(name for name in limits.CHOICES["log.best_metric"] if name)
JUDGING = ("fd", "copies", "copy_margin", "leak")
SAMPLES, SEED = 1000, 1  # of the judgement
FILE = "best_checkpoint.json"


@dataclasses.dataclass(frozen=True)
class Seen:
    """A checkpoint: what the run would have logged, and what the judgement says."""

    step: int
    logged: dict[str, float]
    judged: dict[str, float]


def look(workdir):
    """A `Seen` for each checkpoint of a run, in the order of steps; kept in its folder."""
    file = workdir / FILE
    if file.is_file():
        return [Seen(**each) for each in json.loads(file.read_text())]
    lines = {line["step"]: line for line in logs.read(workdir) if "test_mse" in line}
    judge, found = None, []
    for step in sorted(int(p.name) for p in (workdir / "checkpoints").iterdir()):
        if step not in lines:
            continue  # an interrupted run saves between two evaluations
        run = load_run(workdir, checkpoint=str(step))
        judge = judge or judges.of_plan(plan(run.config, workdir))
        draw = make_sampler(run.parts, run.mesh, batch_size=run.config.sample.batch_size)
        logged, judged = (
            judge.glance(draw(run.ema_params, range(count), seed=seed))
            for count, seed in (
                (run.config.log.metrics_count, run.config.sample.seed),
                (SAMPLES, SEED),
            )
        )
        losses = {name: lines[step][name] for name in ("test_mse", "train_mse")}
        found.append(Seen(step, losses | logged, judged))
        print(f"{workdir.name}, step {step:,}", file=sys.stderr, flush=True)
    write_whole(file, to_json([dataclasses.asdict(seen) for seen in found], indent=1) + "\n")
    return found


def picked(checkpoints, name):
    """The `Seen` that a measure ranks first; None if it ranks none."""
    ranks = [(rank(seen.logged, name), seen.step, seen) for seen in checkpoints]
    ranks = [rank for rank in ranks if rank[0] is not None]
    return min(ranks, key=lambda rank: rank[:2])[2] if ranks else None


def _printed(name, value):
    measure = MEASURES[name]
    return "n/a" if value is None else f"{value * measure.factor:.{measure.digits}f}"


def _row(title, seen):
    values = " | ".join(_printed(name, seen.judged.get(name)) for name in JUDGING)
    return f"| {title} | {seen.step:,} | {values} |"


def main():
    """Prints all checkpoints of each run, and what each measure loses by its picks."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("workdirs", nargs="+", type=pathlib.Path, help="folders of runs")
    args = parser.parse_args()
    backend.enable_compilation_cache()
    head = " | ".join(MEASURES[name].title for name in JUDGING)
    print(f"{machine()}; judged by {SAMPLES:,} samples of seed {SEED} a checkpoint\n")
    losses = {name: [] for name in PICKING}
    margins = {name: [] for name in PICKING}
    for workdir in args.workdirs:
        checkpoints = look(workdir.resolve())
        print(
            f"**{workdir.name}**\n\n| picked by | step | {head} |\n|{'---|' * (2 + len(JUDGING))}"
        )
        for name in PICKING:
            seen = picked(checkpoints, name)
            if seen is None:
                continue
            print(_row(f"`{name}`", seen))
            lowest = min(each.judged["fd"] for each in checkpoints)
            losses[name].append(seen.judged["fd"] / lowest - 1)
            margins[name].append(seen.judged["copy_margin"])
        for seen in checkpoints:
            print(_row("", seen))
        print()
    print("| picked by | runs | Frechet distance above the run's lowest | worst | copy margin |")
    print("|---|---|---|---|---|")
    for name in PICKING:
        if losses[name]:
            above, worst = 100 * np.mean(losses[name]), 100 * np.max(losses[name])
            margin = f"{np.mean(margins[name]):.3f}"
            print(f"| `{name}` | {len(losses[name])} | {above:.0f}% | {worst:.0f}% | {margin} |")


if __name__ == "__main__":
    main()
