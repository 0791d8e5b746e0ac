"""What the benchmarks of speed share: fair timing, the machine's limits, one way to report."""

import json
import os
import pathlib
import platform
import resource
import statistics
import time

import jax
import jax.numpy as jnp

PAUSE = 0.02  # seconds before an action: threads of the one before spin for a while when they rest


def machine():
    """The machine in words: processor, cores, devices, version of JAX."""
    info = pathlib.Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    name = names[0] if names else platform.processor()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    devices = f"{jax.device_count()} x {jax.devices()[0].device_kind}"
    return f"{name}, {cores} cores; {devices}, jax {jax.__version__}"


def image_shape(config, side=None, channels=None):
    """(H, W, C) of square images as the arguments or else the configuration have it."""
    own = {"digits": (8, 1), "cifar10": (32, 3)}.get(config.data.name, (None, 3))
    side = side or config.data.resolution or own[0]
    if side is None:
        raise SystemExit("error: the configuration does not say how large images are: pass --side")
    return side, side, channels or config.data.channels or own[1]


def interleaved(actions, repetitions, warm_up=1):
    """Seconds of each action, by turns, so that whatever else the machine does meets all alike.

    Args:
      actions: {name: function that returns when its work is done}.
      repetitions: of each.
      warm_up: calls of each before them that do not count.

    Returns:
      {name: [seconds]}.
    """
    for action in actions.values():
        for _ in range(warm_up):
            action()
    seconds = {name: [] for name in actions}
    for _ in range(repetitions):
        for name, action in actions.items():
            time.sleep(PAUSE)
            mark = time.perf_counter()
            action()
            seconds[name].append(time.perf_counter() - mark)
    return seconds


def quartiles(values):
    """Median, lower and upper quartile of a list of numbers."""
    ordered = sorted(values)
    quarter = len(ordered) // 4
    return statistics.median(ordered), ordered[quarter], ordered[-1 - quarter]


def summary(seconds):
    """Median and spread (both quartiles) of a list of seconds."""
    median, low, high = quartiles(seconds)
    return {"median_s": median, "quartiles_s": [low, high], "repetitions": len(seconds)}


def figures(benchmark, name, seconds, images, **about):
    """What every line of JSON has: of which contestant, how long it took for so many images."""
    found = summary(seconds)
    rate = images / found["median_s"]
    own = {"images": images, "images_per_s": rate, "process_GiB": process_memory()}
    return {"benchmark": benchmark, "name": name, **about, **found, **own, "machine": machine()}


def ratio(seconds, of, to):
    """Median over the repetitions of the time of one action over that of another."""
    return statistics.median(b / a for a, b in zip(seconds[of], seconds[to]))


def matmul_peak(size=None, dtype="float32"):
    """FLOP/s of the best of some square matrix products, one on each device at once."""
    size = size or (2048 if jax.default_backend() == "cpu" else 8192)
    mesh = jax.make_mesh((jax.device_count(),), ("data",))
    spread = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    a = jax.device_put(jnp.ones((jax.device_count(), size, size), dtype), spread)
    product = jax.jit(lambda a: a @ a)
    seconds = interleaved({"": lambda: product(a).block_until_ready()}, 7)[""]
    return 2 * size**3 * jax.device_count() / min(seconds)


def flops(compiled):
    """Arithmetic of a compiled program over all devices, as the compiler counts it."""
    cost = compiled.cost_analysis()
    cost = cost[0] if isinstance(cost, list) else cost
    return cost["flops"] * jax.device_count()


def program_memory(compiled):
    """GiB on each device while a compiled program runs: arguments, results, temporaries."""
    of = compiled.memory_analysis()
    inside = of.argument_size_in_bytes + of.output_size_in_bytes - of.alias_size_in_bytes
    return (inside + of.temp_size_in_bytes) / 2**30


def device_peak():
    """GiB that the first device has ever held; None where it does not say, as on a CPU."""
    stats = jax.local_devices()[0].memory_stats() or {}
    peak = stats.get("peak_bytes_in_use")
    return None if peak is None else peak / 2**30


def process_memory():
    """GiB that the process has ever had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def show(text, **figures):
    """One readable line and one of JSON."""
    print(text)
    print(json.dumps(figures), flush=True)
