"""What the project is about, on a small run: TADA leaks less than a constant strength."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from scipy import stats

from tests import tiny

METHODS = ("tada", "constant")
_MEAN_LUMAS = """
import json, sys, types
import jax, numpy as np
from tada_jax.methods.plain import Plain
from tada_jax import methods
from tada_jax.metrics.views import augmented_images
from tada_jax.model.sampler import make_sampler
from tada_jax.setup import build
from tada_jax.setup.plan import plan
from tada_jax.system import backend
from tada_jax.training import step as training
from tests import tiny

build.unet = types.SimpleNamespace(UNet=tiny.NormedNet)

def mean_lumas(images):
    return (images / 127.5 - 1.0).mean((1, 2, 3)).tolist()

def samples(planned, config, steps=150, each=50):
    parts, mesh = planned.parts, planned.mesh
    batches = training.resident_batches(config, planned.order, backend.over_batch(mesh))
    step = training.make_steps(parts, config, mesh, batches)
    whole = backend.replicated(mesh)
    state = jax.jit(lambda: training.init_state(parts, 0), out_shardings=whole)()
    tally = jax.device_put(training.empty_tally(parts), whole)
    images = backend.put_whole(planned.dataset.train.images, mesh)
    for _ in range(steps // each):
        state, tally = step(state, tally, np.uint32(0), images, None, each)
    draw = make_sampler(parts, mesh, batch_size=250)
    return draw(state.ema_params, range(250), seed=0)

found = {}
for method in sys.argv[1:]:
    config = tiny.config(
        method,
        data__train_size=1000,
        augment__ops=("brightness",),
        optimizer__learning_rate=0.01,
        optimizer__warmup_steps=20,
        train__batch_size=32,
        train__ema_decay=0.98,
        schedule__total_timesteps=100,
        sample__steps=10,
    )
    planned = plan(config)
    found[method] = mean_lumas(samples(planned, config))
real = np.asarray(planned.dataset.test.images)
happens = Plain(build.augmentation(config))
found["real"] = mean_lumas(real)
found["augmented"] = mean_lumas(augmented_images(real, happens))
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def mean_lumas():
    """{method, "real" or "augmented": mean luma of each image, [N], in [-1, 1]}.

    In a process of its own with some of XLA's optimisation: tests switch it off, and the steps
    would take minutes.
    """
    flags = os.environ["XLA_FLAGS"].replace("device_count=8", "device_count=1")
    flags = flags.replace("optimization_level=0", "optimization_level=1")
    environment = os.environ | {"XLA_FLAGS": flags}
    command = [sys.executable, "-c", _MEAN_LUMAS, *METHODS]
    done = subprocess.run(command, cwd=tiny.ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return {name: np.array(v) for name, v in json.loads(done.stdout.splitlines()[-1]).items()}


def test_tada_leaks_less_than_a_constant_strength(mean_lumas):
    """Brightness is the operation: how much the samples' brightness varies is the leak."""
    spread = {name: values.std() for name, values in mean_lumas.items()}
    assert spread["augmented"] > 1.5 * spread["real"]  # there is something to leak
    test = stats.levene(mean_lumas["constant"], mean_lumas["tada"], center="median")
    assert test.pvalue < 1e-4 and spread["constant"] > 1.3 * spread["tada"]
    apart = {
        method: stats.wasserstein_distance(mean_lumas[method], mean_lumas["real"])
        for method in METHODS
    }
    assert apart["tada"] < apart["constant"]
