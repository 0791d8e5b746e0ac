"""Devices: the mesh that a run is spread over, and the cache of compiled programs."""

import jax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from tada_jax.errors import UserError
from tada_jax.paths import cache_dir


def enable_compilation_cache():
    """Keeps compiled programs on disk, so that a second start is quick.

    JAX's own environment variable JAX_COMPILATION_CACHE_DIR takes precedence.
    """
    if not jax.config.jax_compilation_cache_dir:
        jax.config.update("jax_compilation_cache_dir", str(cache_dir() / "xla"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def data_mesh(batch_size, devices=None):
    """A one-dimensional mesh over all devices (or those given), axis "data".

    Raises:
      UserError: if `batch_size` does not divide over the devices.
    """
    devices = jax.devices() if devices is None else devices
    if batch_size % len(devices):
        raise UserError(
            f"config.train.batch_size={batch_size} does not divide over {len(devices)} devices: "
            "choose a multiple"
        )
    return jax.make_mesh((len(devices),), ("data",), (AxisType.Auto,), devices=devices)


def replicated(mesh):
    """The sharding of what every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def over_batch(mesh):
    """The sharding of what is split over the devices by its first axis."""
    return NamedSharding(mesh, PartitionSpec("data"))
