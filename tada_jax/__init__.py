"""TADA-JAX: diffusion models of small image sets, with timestep-aware data augmentation.

    w = tada_jax.strength(logsnr, resolution=64)            # how strongly to augment
    x = tada_jax.augment_batch(rng, x, w, tada_jax.Policy())  # each image by its own strength

    state = tada_jax.train(config, "runs/mine")   # trains, or continues
    run = tada_jax.load_run("runs/mine")          # network, schedule, configuration
    images = run.sample(16, seed=1)               # uint8 [16,H,W,C]
    tada_jax.sample(config, "runs/mine")          # to files
    tada_jax.evaluate(config, "runs/mine")        # quality, memorisation, leakage
    tada_jax.compare(config, "runs/grid")         # the same for a grid of runs
    tada_jax.analyze(config, "runs/mine")         # which noise levels are sensitive
    tada_jax.export(config, "runs/mine")          # a folder for diffusers
    tada_jax.load_weights("ffhq_baseline.pt")     # a network that others have trained

The method alone, for another JAX project, is in four files at the door: tada.py, augment.py,
transforms.py and resample.py. Of the functions above, those that need more than JAX are loaded when
they are first asked for.
"""

import importlib

from tada_jax.augment import Policy, augment, augment_batch
from tada_jax.tada import strength

# On demand: whoever wants the method alone does not load a training loop.
_WHERE = {
    "train": "training.loop",
    "describe": "training.describe",
    "sample": "study.samples",
    "evaluate": "study.evaluation",
    "compare": "study.comparison",
    "analyze": "study.analysis",
    "load_run": "training.run",
    "export": "study.export",
    "load_weights": "weights.load",
    "Run": "training.run",
    "UserError": "system.errors",
}
_MODULES = {"schedule": "model.schedule"}  # the noise schedules, which belong to the method
__all__ = ["Policy", "augment", "augment_batch", "schedule", "strength", *_WHERE]


def __getattr__(name):
    if name in _MODULES:
        return importlib.import_module(f"{__name__}.{_MODULES[name]}")
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_WHERE[name]}"), name)


def __dir__():
    return sorted({*globals(), *__all__})
