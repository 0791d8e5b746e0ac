"""TADA-JAX: diffusion models of small image sets, with timestep-aware data augmentation.

    state = tada_jax.train(config, "runs/mine")   # trains, or continues
    run = tada_jax.load_run("runs/mine")          # network, schedule, configuration
    images = run.sample(16, seed=1)               # uint8 [16,H,W,C]
    tada_jax.sample(config, "runs/mine")          # to files
    tada_jax.evaluate(config, "runs/mine")        # quality, memorisation, leakage
    tada_jax.compare(config, "runs/grid")         # the same for a grid of runs
    tada_jax.analyze(config, "runs/mine")         # which noise levels are sensitive

The method alone, for another JAX project: `tada_jax.tada.strength`, `tada_jax.augment.augment`.
"""

import importlib

# On demand: whoever wants the method alone does not load a training loop.
_WHERE = {
    "train": "training.loop",
    "describe": "training.describe",
    "sample": "study.samples",
    "evaluate": "study.evaluation",
    "compare": "study.comparison",
    "analyze": "study.analysis",
    "load_run": "training.run",
    "Run": "training.run",
    "UserError": "system.errors",
}
__all__ = list(_WHERE)


def __getattr__(name):
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_WHERE[name]}"), name)


def __dir__():
    return sorted({*globals(), *_WHERE})
