"""Calls of the compiled step: how many steps each does, what it is given, and the first ahead."""

import contextlib
import itertools

import jax
import numpy as np

from tada_jax.data.base import Split
from tada_jax.data.feed import Feed
from tada_jax.data.order import HostBatches
from tada_jax.system import backend
from tada_jax.system.ahead import Ahead
from tada_jax.training import step as steps


def advance(planned):
    """The run's `steps(state, tally, seed, images, labels, count)`, see `step.make_steps`."""
    config, over_batch = planned.config, backend.over_batch(planned.mesh)
    if planned.resident:
        fetch = steps.resident_batches(config, planned.order, over_batch)
    else:
        fetch = steps.fed_batches(config, planned.order, over_batch, planned.parts)
    return steps.make_steps(planned.parts, config, planned.mesh, fetch)


def count(planned, step):
    """Steps of the call after `step` steps: as many as a call may do, or one before an event."""
    config = planned.config
    most = config.train.steps_per_call or (1 if jax.default_backend() == "cpu" else 10)
    return most if planned.resident and most <= to_next_event(step, config) else 1


def to_next_event(step, config):
    """Steps until something other than training happens; at least 1."""
    log = config.log
    intervals = [log.every, log.eval_every, log.sample_every, log.checkpoint_every]
    intervals += [log.metrics_every] if log.metrics_every else []
    intervals += [config.ema.snapshot_every] if config.ema.widths else []
    return min(config.train.total_steps - step, *(n - step % n for n in intervals))


def batches(session, first_step):
    """A context in which `next` gives the images and labels of the call after `first_step` steps.

    Of a set that is whole on the devices they are always the same.
    """
    planned, progress = session.plan, session.progress
    config, split, labels = planned.config, planned.dataset.train, _labels(planned)
    if planned.resident:
        flat = np.reshape(split.images, (len(split.images), -1))
        whole = tuple(backend.put_whole(a, planned.mesh) for a in (flat, labels))
        return contextlib.nullcontext(itertools.repeat(whole))
    key, _ = steps.step_keys(config.seed)
    order = HostBatches(key, batch_size=config.train.batch_size, order=planned.order)
    over_batch = backend.over_batch(planned.mesh)
    feed = Feed(Split(split.images, labels), order, over_batch, first_step=first_step)
    progress.say(
        f"{planned.image_bytes / backend.GIB:.1f} GiB of images stay on the host, above "
        f"config.data.device_gib={config.data.device_gib:g}"
    )
    return contextlib.closing(feed)


def arguments(planned):
    """What a call is given but for its count: shapes, and the devices where they lie."""
    config, mesh = planned.config, planned.mesh
    everywhere, over_batch = backend.replicated(mesh), backend.over_batch(mesh)
    shapes = steps.state_shapes(planned.parts, config)
    state = _lying(shapes, steps.state_sharding(planned.parts, config, mesh))
    tally = jax.eval_shape(lambda: steps.empty_tally(planned.parts))
    tally = _lying(tally, jax.tree.map(lambda _: everywhere, tally))
    images, labels = planned.dataset.train.images, _labels(planned)
    if planned.resident:
        number, *shape = images.shape
        shape, where = (number, int(np.prod(shape))), everywhere
    else:
        number, where = config.train.batch_size, over_batch
        shape = (number, *images.shape[1:])
    images = jax.ShapeDtypeStruct(shape, images.dtype, sharding=where)
    if labels is not None:
        labels = jax.ShapeDtypeStruct((number,), labels.dtype, sharding=where)
    return state, tally, np.uint32(config.seed), images, labels


def compile_first(planned):
    """Has the first call of a fresh run compiled meanwhile: an `ahead.Ahead`.

    None in a run of several processes, which compile in step with each other.
    """
    if jax.process_count() > 1:
        return None
    return Ahead(advance(planned), *arguments(planned), count(planned, 0))


def _labels(planned):
    """Classes [N] that the network is told, or None."""
    return planned.dataset.train.labels if planned.parts.network.num_classes else None


def _lying(shapes, shardings):
    """Shapes of arrays that lie somewhere; pytrees."""
    return jax.tree.map(
        lambda a, at: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=at), shapes, shardings
    )
