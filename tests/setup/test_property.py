"""Random configurations: each is refused in one line, or takes a step, draws a sample and is saved.

A few of them at every run of the tests, the same ones each time. For hundreds of new ones:

    TADA_JAX_EXAMPLES=200 python -m pytest tests/setup/test_property.py -q --hypothesis-seed=1
"""

import dataclasses
import math
import os
import tempfile

import hypothesis
import jax
import numpy as np
import pytest
from hypothesis import strategies as st

from configs import base
from tada_jax.augment import OPERATIONS
from tada_jax.model.sampler import make_sampler
from tada_jax.setup import build
from tada_jax.setup.limits import CHOICES
from tada_jax.system import backend
from tada_jax.system.errors import UserError
from tada_jax.training.checkpoint import Checkpoints
from tada_jax.training.step import (
    empty_tally,
    init_state,
    make_steps,
    resident_batches,
    state_sharding,
)
from tests import tiny

EXAMPLES = int(os.environ.get("TADA_JAX_EXAMPLES", 0))
CLASSES = 3


def divisors(n):
    return [d for d in range(1, n + 1) if n % d == 0]


def some(strategy):
    """Lists of different elements, as tuples."""
    return st.lists(st.sampled_from(strategy), unique=True, max_size=4).map(tuple)


@st.composite
def configurations(draw):
    """(a configuration, whether grey or colour images, height and width)."""

    def pick(*values):
        return draw(st.sampled_from(values))

    def seldom():
        return draw(st.integers(0, 9)) == 5

    c = tiny.config(pick(*CHOICES["method"]))
    c.constant_strength = pick(0.0, 0.5, 1.0)
    c.data.order = pick(*CHOICES["data.order"])

    base.formulate(c, base.FORMULATIONS[pick(*base.FORMULATIONS)])
    if c.schedule.name not in ("edm", "flow"):
        c.schedule.name, c.schedule.total_timesteps = pick(
            ("cosine", 2), ("cosine", 30), ("linear", 21), ("linear", 50)
        )
    c.schedule.edm.p_std = pick(1.2, 0.1)
    c.schedule.flow.times = pick("uniform", "logit_normal")
    # Now and then what is refused.
    if c.method in ("sda", "sda+tada") and not seldom():
        c.diffusion.parameterisation = "eps"
    else:
        c.diffusion.parameterisation = pick(*CHOICES["diffusion.parameterisation"])
    if c.schedule.name not in ("edm", "flow") or seldom():
        c.diffusion.variance = pick(*CHOICES["diffusion.variance"])
    else:
        c.diffusion.variance = pick("fixed_small", "fixed_large")
    c.diffusion.weighting = pick(*CHOICES["diffusion.weighting"])
    c.diffusion.p2_gamma, c.diffusion.p2_k = pick(0.0, 1.0, 9.0), pick(1.0, 0.0)
    c.diffusion.min_snr_gamma = pick(5.0, 0.0)

    c.tada.schedule = pick("paper", "paper", "constant", "table")
    c.tada.delta, c.tada.kappa = pick(0.1, 0.0, 1.0), pick("auto", "0.05", "-1")
    c.tada.calibration = pick("resolution", "none", "inverse")
    c.augment.ops = draw(some(list(OPERATIONS)))
    one_each = tuple(0.5 for _ in c.augment.ops)
    c.tada.table = pick(((-5.0, 1.0), (0.0, 0.0)), ((0.0, 0.3),), ((-1.0, one_each),))
    c.augment.p, c.augment.xflip_p = pick(0.8, 0.0, 1.0), pick(0.0, 0.5)
    c.augment.max_ops, c.augment.truncate = pick(0, 1, 2, 50), pick(3.0, 0.0)
    c.augment.mapping = pick("magnitude", "probability")
    c.scoreaug.ops = draw(some(list(c.scoreaug.ops))) or c.scoreaug.ops
    c.sda.mu, c.sda.weight = pick(0.5, -10.0), pick(1.0, 0.0, 1e6)

    m = c.model
    m.channels = draw(st.integers(2, 16))
    m.channel_mult = pick((1,), (1,), (1, 1), (2, 4), (2, 1), (0.5, 1))
    widths = [max(1, int(factor * m.channels)) for factor in m.channel_mult]
    m.num_res_blocks = pick(1, 1, 2)
    m.attention_resolutions = pick((), (8,), (4,), (8, 4), (3,))
    m.norm_groups = draw(st.sampled_from(divisors(math.gcd(*widths))))
    m.head_channels = draw(st.sampled_from(divisors(math.gcd(*widths[-1:], *widths[:1]))))
    m.resblock_updown, m.remat = pick(True, False), pick(False, True)
    m.attention_order = pick(*CHOICES["model.attention_order"])
    m.dropout, m.dtype = pick(0.0, 0.3), pick(*CHOICES["model.dtype"])
    m.class_conditional = pick(False, True)

    c.optimizer.warmup_steps, c.optimizer.clip_norm = pick(2, 0), pick(1.0, 0.0)
    c.optimizer.b1, c.optimizer.b2 = pick((0.9, 0.999), (0.0, 0.0))
    c.optimizer.weight_decay = pick(0.0, 0.1)
    c.train.batch_size = pick(4, 6, 1)
    # On CPUs each piece is a network of its own for the compiler.
    most = c.train.batch_size if EXAMPLES else 2
    pieces = draw(st.sampled_from([n for n in divisors(c.train.batch_size) if n <= most]))
    c.train.microbatch = pick(0, c.train.batch_size // pieces)
    c.train.steps_per_call, c.train.sharding = pick(1, 2), pick(*CHOICES["train.sharding"])
    c.train.nonfinite, c.train.ema_decay = pick("stop", "skip"), pick(0.998, 0.0)
    c.train.class_dropout = pick(0.0, 0.2) if m.class_conditional else 0.0
    c.ema.widths = pick((), (0.1,), (0.05, 0.2))

    s = c.sample
    s.sampler = pick(*CHOICES["sample.sampler"])
    s.stride = pick("auto", *CHOICES["sample.stride"])
    s.steps, s.eta, s.clip_x0 = 1 if seldom() else 2, pick(0.0, 1.0), pick(True, False)
    if c.schedule.total_timesteps > 2:
        s.steps = pick(s.steps, 3)
    if c.train.class_dropout:
        s.guidance = pick(1.0, 0.0, 3.0)
    if m.class_conditional:
        with c.ignore_type():
            s.label = pick(None, "2")
    return c, pick(1, 3), pick((8, 8), (8, 8), (8, 16))


def run(config, channels, size):
    """One call of training, one sample, and a checkpoint that is read back; all must be finite."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (12, *size, channels), np.uint8)
    labels = np.arange(12, dtype=np.int32) % CLASSES
    parts = build.parts(config, images.shape[1:], CLASSES)
    order = build.order(config, labels, len(images))
    mesh = backend.data_mesh(config.train.microbatch or config.train.batch_size, jax.devices()[:2])
    where = state_sharding(parts, config, mesh)
    shapes = jax.eval_shape(lambda: init_state(parts, 0, widths=config.ema.widths))

    def random(a):
        return (0.1 * rng.standard_normal(a.shape)).astype(a.dtype)

    # Any parameters will do, and a program for those to begin with takes as long as that of a step.
    state = jax.tree.map(lambda a: np.zeros(a.shape, a.dtype), shapes)
    params, ema_params, power_emas = jax.tree.map(
        random, (shapes.params, shapes.ema_params, shapes.power_emas)
    )
    state = dataclasses.replace(state, params=params, ema_params=ema_params, power_emas=power_emas)
    state = jax.device_put(state, where)
    tally = jax.device_put(empty_tally(parts), backend.replicated(mesh))
    fetch = resident_batches(config, order, backend.over_batch(mesh))
    steps = make_steps(parts, config, mesh, fetch)
    told = backend.put_whole(labels if parts.network.num_classes else None, mesh)
    count = config.train.steps_per_call
    state, tally = steps(state, tally, np.uint32(0), backend.put_whole(images, mesh), told, count)
    assert int(state.step) == count and not int(tally.nonfinite)
    for leaf in jax.tree.leaves(jax.device_get((state, tally))):
        assert np.isfinite(leaf).all()

    draw = make_sampler(parts, mesh, batch_size=2)
    assert draw(state.ema_params, range(2), seed=0).shape == (2, *images.shape[1:])

    with tempfile.TemporaryDirectory() as folder:
        checkpoints = Checkpoints(folder)
        try:
            checkpoints.save(count, state, {})
            checkpoints.wait()
            like = jax.eval_shape(lambda: state)
            tiny.assert_trees_equal(checkpoints.restore(count, like, where), state)
        finally:
            checkpoints.close()


@pytest.mark.usefixtures("whole_networks")
@pytest.mark.filterwarnings("ignore::hypothesis.errors.NonInteractiveExampleWarning")
@hypothesis.settings(
    max_examples=EXAMPLES or 3,
    derandomize=not EXAMPLES,
    deadline=None,
    database=None,
    phases=[hypothesis.Phase.generate],  # a smaller one that fails takes a compilation each
    suppress_health_check=list(hypothesis.HealthCheck),
)
@hypothesis.given(configurations())
def test_what_the_checks_accept_runs(drawn):
    config, channels, size = drawn
    hypothesis.note(f"{size[0]}x{size[1]}x{channels}\n{config}")
    try:
        build.parts(config, (*size, channels), CLASSES)
    except UserError as e:
        assert "\n" not in str(e) and "config." in str(e)
        hypothesis.event("refused")
        return
    hypothesis.event("runs")
    run(config, channels, size)


@pytest.mark.parametrize(
    ("method", "model"),
    [
        ("none", {"channels": 16, "channel_mult": (2, 4), "norm_groups": 32, "head_channels": 64}),
        ("ar", {"channels": 9, "norm_groups": 3, "head_channels": 3}),
        ("scoreaug", {"channels": 3, "norm_groups": 1, "head_channels": 3}),
    ],
)
def test_widths_that_fit_no_other(method, model):
    config = tiny.config(method, **{f"model__{name}": value for name, value in model.items()})
    parts = build.parts(config, (8, 8, 3))
    condition = np.ones((2, parts.network.condition_size)) if method != "none" else None

    def predict():
        params = parts.init_params(jax.random.key(0))
        return parts.apply(params, np.zeros((2, 8, 8, 3)), np.zeros(2, int), None, condition)

    assert jax.eval_shape(predict).shape[:3] == (2, 8, 8)
