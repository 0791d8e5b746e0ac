"""Leaks on common terms: every method's samples by two judges, ScoreAug's and that of the others.

    python main.py --config=configs/digits_methods.py --mode=compare
    python -m benchmarks.cross_leak runs/digits_methods

A leak is measured against the operations that a method was trained with, and ScoreAug has its own.
Here the samples that the comparison has kept are judged by both.
"""

import argparse
import pathlib

import numpy as np

from configs import digits_methods
from tada_jax.metrics.judge import of_plan
from tada_jax.setup.plan import plan
from tada_jax.study import comparison
from tada_jax.study.samples import read
from tada_jax.system import backend

JUDGES = {"tada": "config.augment's operations", "scoreaug": "ScoreAug's"}  # by whose method


def main():
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("workdir", type=pathlib.Path, help="of a finished comparison")
    args = parser.parse_args()
    backend.enable_compilation_cache()
    cells = comparison.grid(digits_methods.get_config(), args.workdir)
    digests = comparison.digests_of(cells)
    cells = [cell for cell in cells if comparison.finished(cell, digests[cell])]
    configs = {(cell.method, cell.seed): cell.config for cell in cells}
    leaks = {}
    for seed in dict.fromkeys(cell.seed for cell in cells):
        judges = {name: of_plan(plan(configs[name, seed])) for name in JUDGES}
        for cell in (cell for cell in cells if cell.seed == seed):
            (folder,) = (path for path in cell.workdir.glob("samples/*") if path.is_dir())
            images = read(sorted(folder.glob("[0-9]*.png")))
            for name, judge in judges.items():
                share = 100 * judge.leak(images).share
                leaks.setdefault(cell.method, {}).setdefault(name, []).append(share)
    print("| method | " + " | ".join(f"leak [%], {title}" for title in JUDGES.values()) + " |")
    print("|---" * (len(JUDGES) + 1) + "|")
    for method, found in leaks.items():
        values = [f"{np.mean(v):.1f} ± {np.std(v, ddof=1):.1f}" for v in found.values()]
        print(f"| `{method}` | {' | '.join(values)} |")


if __name__ == "__main__":
    main()
