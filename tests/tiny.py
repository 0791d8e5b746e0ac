"""The smallest run that exercises all but moving pictures: seconds, on digits."""

import functools
import pathlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from configs import digits_tada
from tada_jax.model import unet
from tada_jax.setup import build
from tada_jax.setup.plan import load_data
from tada_jax.system import backend, figures
from tada_jax.training import step

ROOT = pathlib.Path(__file__).parents[1]
FILES = pathlib.Path(__file__).parent / "files"

# What training augments by, and what digits are moved by, whose step takes half as long again to
# compile: for tests whose subject is a picture that moves.
OPS = ("brightness",)
MOVES = ("scale", "rotate_frac", "translate_frac")

# A run of three steps, by main.py.
FLAGS = (
    "--config.schedule.total_timesteps=20",
    "--config.model.channels=8",
    "--config.model.channel_mult=(1,)",
    "--config.model.head_channels=8",
    "--config.model.norm_groups=4",
    "--config.model.attention_resolutions=()",
    "--config.train.batch_size=8",
    "--config.train.total_steps=3",
    "--config.log.metrics_every=0",
    "--config.sample.steps=4",
    "--config.sample.count=4",
)


def config(method="tada", **fields):
    """A tiny configuration; `section__field=value` overrides."""
    c = digits_tada.get_config()
    c.method = method
    c.data.train_size = 50
    c.augment.ops = OPS
    c.schedule.total_timesteps = 30
    c.model.channels = 8
    c.model.channel_mult = (1,)
    c.model.attention_resolutions = ()
    c.model.head_channels = 8
    c.model.norm_groups = 4
    c.optimizer.warmup_steps = 2
    c.train.batch_size = 16
    c.train.total_steps = 6
    c.log.every = 2
    c.log.eval_every = 3
    c.log.sample_every = 3
    c.log.checkpoint_every = 3
    c.log.metrics_every = 0
    c.sample.steps = 5
    c.sample.count = 8
    c.sample.batch_size = 8  # one program, for whatever is drawn
    for name, value in fields.items():
        section, _, field = name.partition("__")
        if field:
            c[section][field] = value
        else:
            c[section] = value
    return c


class SmallNet(unet.UNet):
    """Two convolutions in place of a `UNet`, with its checks and its arguments.

    A step of it compiles in half the time: for tests whose subject is no network, which are most.
    """

    normalises = False

    @nn.compact
    def __call__(self, z, t, labels=None, condition=None, *, deterministic=True):
        """As of `UNet`."""
        self.check(z.shape[1:3])
        assert (labels is not None) == (self.num_classes > 0)
        dtype = jnp.dtype(self.dtype)
        emb = unet._embedding(self, t, labels, condition)
        h = unet.Conv(self.width(0), 3, dtype, name="conv_in")(z.astype(dtype))
        if self.normalises:
            told = unet.Dense(2 * self.width(0), jnp.float32, name="emb")(emb)
            h = unet.Norm(self.norm_groups, name="norm_out")(h, told)
        else:
            told = unet.Dense(self.width(0), jnp.float32, name="emb")(emb)
            h = nn.silu(h + told[:, None, None].astype(dtype))
        if self.dropout and not deterministic:
            h = unet.layers.dropout(self.make_rng("dropout"), h, self.dropout)
        out = unet.Conv(self.out_channels, 3, jnp.float32, zero=True, name="conv_out")
        # From the start z is mostly noise to it, so that its samples are grey and not all clipped.
        noise = jnp.pad(z, ((0, 0),) * 3 + ((0, self.out_channels - z.shape[-1]),))
        return out(h.astype(jnp.float32)) + noise


class NormedNet(SmallNet):
    """The same with a normalisation: for tests whose network is to learn."""

    normalises = True


class NoFigures:
    """`system.figures`, but that nothing is drawn."""

    def __getattr__(self, name):
        return (lambda *a, **k: None) if name.endswith("_figure") else getattr(figures, name)


def at_once(function, *arguments):
    """`function(*arguments)`, by one program, where each operation would have its own."""
    return jax.jit(function)(*arguments)


def loss_terms(parts, rng, x0, *, numbers=None, params=None):
    """What `step.loss_fn` gives, by one program."""
    return at_once(lambda: step.loss_fn(params, rng, x0, None, parts, numbers))


def params(parts):
    """Fresh parameters of a network: by one program, where each operation would have its own."""
    return jax.jit(parts.init_params)(jax.random.key(0))


@functools.lru_cache(4)
def state(parts):
    """A fresh `TrainState` of NumPy arrays, likewise; the same for whatever device is traced."""
    return jax.device_get(jax.jit(lambda: step.init_state(parts, 0))())


def assert_trees_equal(a, b):
    """Bit for bit."""
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(a), jax.device_get(b))


def damage(folder, how=lambda content: content[:-20]):
    """Changes the files of a checkpoint in which the arrays are."""
    files = [p for p in folder.rglob("d/*") if p.is_file()]
    assert files
    for file in files:
        file.write_bytes(how(file.read_bytes()))


def run_steps(config, count, devices, steps_per_call=1):
    """Trains `count` steps on some devices; returns (state, losses, number of compilations)."""
    dataset = load_data(config)
    parts = build.parts(config, dataset.train.images.shape[1:], dataset.num_classes)
    mesh = backend.data_mesh(config.train.batch_size, devices)
    whole = backend.replicated(mesh)
    state = step.fresh_state(parts, config, mesh)
    labels = dataset.train.labels if parts.network.num_classes else None
    images, labels = jax.device_put((dataset.train.images, labels), whole)
    order = build.order(config, dataset.train.labels, len(images))
    fetch = step.resident_batches(config, order, backend.over_batch(mesh))
    advance = step.make_steps(parts, config, mesh, fetch)
    empty = jax.jit(lambda: step.empty_tally(parts), out_shardings=whole)
    losses = []
    for _ in range(0, count, steps_per_call):
        data = (np.uint32(config.seed), images, labels)
        state, tally = advance(state, empty(), *data, steps_per_call)
        losses.append(float(tally.means.compute()["loss"]))
    return state, losses, advance._cache_size()
