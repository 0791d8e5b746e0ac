"""Devices and processes: the mesh that a run is spread over, and the cache of compiled programs."""

import contextlib
import ctypes
import gc
import importlib.util
import os
import pathlib

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from tada_jax.resample import TRACED_FOR, platform  # noqa: F401 (asked for by this name)
from tada_jax.system import cache, logs
from tada_jax.system.errors import UserError
from tada_jax.system.paths import cache_dir


def enable_compilation_cache():
    """Keeps compiled programs on disk, also the small ones, so that a second start is quick.

    JAX's own environment variables JAX_COMPILATION_CACHE_DIR and
    JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS take precedence. In either folder, entries that were
    cut short are deleted; ours is kept below `cache.MOST_BYTES`.
    """
    if jax.config.jax_compilation_cache_dir:
        cache.tend(jax.config.jax_compilation_cache_dir, most_bytes=None, say=logs.say)
    else:
        cache.tend(cache_dir() / "xla", say=logs.say)
        jax.config.update("jax_compilation_cache_dir", str(cache_dir() / "xla"))
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


@contextlib.contextmanager
def traced_for(target):
    """What is traced inside is for a platform, or for that of a mesh; the outermost one counts.

    Layers have forms that suit one of them; all give the same numbers up to rounding. So a program
    may be lowered, and with the compiler at hand compiled, for devices that this machine has not
    got. A jitted function that was traced before keeps its form: make it inside.
    """
    name = target if isinstance(target, str) else target.devices.flat[0].platform
    token = TRACED_FOR.set(TRACED_FOR.get() or name)
    try:
        yield
    finally:
        TRACED_FOR.reset(token)


# One device keeps about 1.6 of 2 cores busy, two keep both.
CPU_DEVICES = 2
# Bytes of the largest layer's output on a device, up to which a step needs no more than the 64 MiB
# that the C library's pool of a thread can hold in one piece: some 60 such outputs.
SMALL_OUTPUT = 2**20
# XLA's loops are short and wait for memory: unrolled by LLVM they are no faster (docs/speed.md).
BRIEF_CODE = "--xla_backend_extra_options=xla_cpu_disable_loop_unrolling"


def use_cpu_well(batch_size, *, pixels=None, channels=1):
    """Prepares JAX and the C library for training on a CPU; to be called before anything else.

    Two devices share the batch, if there are two cores and it is even; freed memory is kept, since
    XLA asks for the same large buffers at every step and getting them from the system, page by
    page, takes longer than much of the arithmetic (`docs/speed.md`). Loops are not unrolled, which
    saves a tenth of the time to compile. A number of CPU devices that the user has chosen stays
    (XLA_FLAGS, JAX_NUM_CPU_DEVICES), as do GLIBC_TUNABLES and the backend's extra options. Nothing
    is done where JAX is installed for another kind of device, unless JAX_PLATFORMS=cpu, nor in one
    of several processes.

    Args:
      batch_size: images a step.
      pixels: of an image; None if not known yet.
      channels: of the first level of the network.
    """
    accelerated = any(map(importlib.util.find_spec, ("jax_plugins", "libtpu")))
    first = (os.environ.get("JAX_PLATFORMS") or ("other" if accelerated else "cpu")).split(",")[0]
    if first != "cpu" or os.environ.get("JAX_COORDINATOR_ADDRESS"):
        return
    affinity = getattr(os, "sched_getaffinity", None)  # not on every system
    cores = len(affinity(0)) if affinity else os.cpu_count()
    share = cores >= CPU_DEVICES and batch_size % CPU_DEVICES == 0
    output = 4 * batch_size * channels * (pixels or 2**16) // (CPU_DEVICES if share else 1)
    keep_freed_memory(pools=output <= SMALL_OUTPUT)
    flags = xla_flags()
    if "xla_backend_extra_options" not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} {BRIEF_CODE}".strip()
    chosen = "xla_force_host_platform_device_count" in flags
    if share and not chosen and "JAX_NUM_CPU_DEVICES" not in os.environ:
        jax.config.update("jax_num_cpu_devices", CPU_DEVICES)


def xla_flags():
    """What XLA_FLAGS says, or the file that it names.

    Raises:
      UserError: if that cannot be read.
    """
    flags = os.environ.get("XLA_FLAGS", "").strip()
    if not flags or flags.startswith("-"):
        return flags
    try:
        return " ".join(pathlib.Path(flags).read_text().split())
    except (OSError, UnicodeError) as e:
        raise UserError(
            f"XLA_FLAGS={flags}: no such file can be read ({e}): name one, or write the flags, "
            "which begin with --, or unset it"
        ) from e


DETERMINISTIC = "--xla_gpu_deterministic_ops"


def be_deterministic():
    """Tells XLA to use only GPU kernels that add in a fixed order, and not to time them to choose.

    To be called before the first use of a device. The flag forbids kernels with atomic additions
    and switches autotuning off, which may choose other kernels in another process. On CPUs and TPUs
    it changes nothing. Whoever has set it in XLA_FLAGS is obeyed.
    """
    flags = xla_flags()
    if importlib.util.find_spec("jax_plugins") and DETERMINISTIC not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} {DETERMINISTIC}=true".strip()


def keep_freed_memory(*, pools):
    """Tells the GNU C library to give no freed memory back; elsewhere nothing happens.

    Args:
      pools: whether each thread has its own. In a single one, what compiling leaves behind makes
        later steps of a small network 1.6 times as slow; but pools of threads cannot keep pieces
        beyond 64 MiB.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is None or "GLIBC_TUNABLES" in os.environ:
        return
    m_trim_threshold, m_top_pad, m_mmap_max, m_arena_max = -1, -2, -4, -8  # of malloc.h
    mallopt(m_mmap_max, 0)
    mallopt(m_trim_threshold, -1)  # as unsigned: never
    if pools:
        mallopt(m_top_pad, 2**27)  # slack that keeps the pieces of threads that are empty
    else:
        mallopt(m_arena_max, 1)


def give_back_memory():
    """Returns to the system what this process has freed and kept; for between two runs.

    Compiling leaves hundreds of megabytes in the pool of every thread: of a grid of runs in one
    process they came to six gigabytes. Nothing happens but with the GNU C library.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None
    if trim is not None:
        gc.collect()
        trim(0)


def join_processes(coordinator=None, num_processes=None, process_id=None):
    """Makes this process one of several that train together; to be called before anything else.

    What is not given is taken from JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID;
    if there is no coordinator then either, nothing happens.

    Args:
      coordinator: "host:port" of process 0, or "auto" where JAX finds out by itself (Slurm, Open
        MPI, Cloud TPU).
      num_processes: how many there are.
      process_id: which one this is, from 0.

    Raises:
      UserError: if a number is missing or impossible, or the others cannot be reached.
    """
    coordinator = coordinator or os.environ.get("JAX_COORDINATOR_ADDRESS")
    if not coordinator:
        if num_processes is not None or process_id is not None:
            raise UserError("--num_processes and --process_id need --coordinator=host:port")
        return
    if coordinator == "auto":
        arguments = {}
    else:
        count = _whole("--num_processes", num_processes, "JAX_NUM_PROCESSES")
        number = _whole("--process_id", process_id, "JAX_PROCESS_ID")
        if ":" not in coordinator or not 0 <= number < count:
            raise UserError(
                f"--coordinator={coordinator} --num_processes={count} --process_id={number} cannot "
                "be: write host:port, and number the processes from 0"
            )
        arguments = {
            "coordinator_address": coordinator,
            "num_processes": count,
            "process_id": number,
        }
    try:
        jax.distributed.initialize(**arguments, initialization_timeout=120)
    except (RuntimeError, ValueError) as e:
        reason = " ".join(str(e).split())[:200]
        raise UserError(
            f"--coordinator={coordinator}: the processes cannot find each other ({reason}): start "
            "all of them within two minutes, with the same address"
        ) from e


def _whole(flag, value, variable):
    value = os.environ.get(variable) if value is None else value
    try:
        return int(value)
    except (TypeError, ValueError) as e:
        raise UserError(f"--coordinator needs {flag}, a whole number (or {variable})") from e


def check_devices():
    """Finds the devices, before anything asks for them.

    Raises:
      UserError: if there are none as wanted.
    """
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as e:  # the second where a platform is not installed
        wanted = os.environ.get("JAX_PLATFORMS")
        reason = " ".join(str(e).split())[:200] or "none of that kind"
        raise UserError(
            f"JAX finds no device (JAX_PLATFORMS={wanted or ''}; {reason}): unset JAX_PLATFORMS, "
            "or install the driver and requirements-cuda.txt or requirements-tpu.txt"
        ) from e


def idle_accelerator(root="/"):
    """A warning if this machine has an accelerator that JAX does not use; "" if it has none.

    Args:
      root: of the file system, in which drivers leave their devices.
    """
    if jax.default_backend() != "cpu" or os.environ.get("JAX_PLATFORMS"):
        return ""  # in use, or the user's choice
    root = pathlib.Path(root)
    for pattern, name, device in (
        ("dev/nvidia[0-9]*", "an NVIDIA GPU", "cuda"),
        ("dev/accel[0-9]*", "a TPU", "tpu"),
    ):
        if any(root.glob(pattern)):
            return (
                f"this machine has {name}, and this JAX runs on the CPU: make train "
                f"DEVICE={device}, or pip install -r requirements-{device}.txt, uses it "
                "(JAX_PLATFORMS=cpu is silent)"
            )
    return ""


def is_first():
    """Whether this is the process that writes files; the only one, usually."""
    return jax.process_index() == 0


def in_turn(action):
    """Runs `action()` in the first process, then in all others, and returns its result.

    So the others find what the first one left on a shared disk. If it fails anywhere, no process
    goes on.

    Raises:
      UserError: of the action; or that another process failed.
    """
    if jax.process_count() == 1:
        return action()
    result = error = None
    for mine in (is_first(), not is_first()):
        if mine:
            try:
                result = action()
            except UserError as e:
                error = e
        failed = _gathered(error is not None)
        if error is not None:
            raise error
        if failed.any():
            raise UserError(f"process {int(failed.argmax())} could not go on; it says why")
    return result


def any_process(flag):
    """Whether `flag` is true in any of the processes; all of them must ask."""
    if jax.process_count() == 1:
        return flag
    return bool(_gathered(flag).any())


def _gathered(flag):
    """`flag` of every process, bool [processes].

    Raises:
      UserError: if another process has ended or does not answer.
    """
    try:
        return multihost_utils.process_allgather(np.asarray(flag)).reshape(-1)
    except jax.errors.JaxRuntimeError as e:
        raise of_another_process(e) or e from e


def of_another_process(error):
    """A `UserError` in place of JAX's where another process has ended; else None."""
    text = " ".join(str(error).split())
    signs = ("Gloo", "DEADLINE_EXCEEDED", "UNAVAILABLE", "oordination", "onnection")
    if jax.process_count() == 1 or not any(sign in text for sign in signs):
        return None
    return UserError(
        f"another of the {jax.process_count()} processes has ended or does not answer "
        f"({text[:200]}): start all of them again, and the run goes on from its last checkpoint"
    )


def data_mesh(batch_size, devices=None, *, field="train.batch_size", warn=None):
    """A one-dimensional mesh, axis "data", over as many devices as divide a batch.

    Those are the first ones of every process, as many in each: fewer than there are if need be, so
    that a run goes on wherever it is taken.

    Args:
      batch_size: images that are spread over them.
      devices: which there are; None: all.
      field: of the configuration, that says `batch_size`.
      warn: called with a line of text if some stay idle.

    Raises:
      UserError: if the batch does not even divide over the processes.
    """
    devices = jax.devices() if devices is None else devices
    of_process = {}
    for device in devices:
        of_process.setdefault(device.process_index, []).append(device)
    processes, fewest = len(of_process), min(map(len, of_process.values()))
    if batch_size % processes:
        raise UserError(
            f"config.{field}={batch_size} does not divide over {processes} processes: choose a "
            f"multiple of {processes}, or start fewer"
        )
    each = next(n for n in range(fewest, 0, -1) if batch_size % (n * processes) == 0)
    used = [device for own in of_process.values() for device in own[:each]]
    if warn and len(used) < len(devices):
        multiple = processes * fewest
        all_of = "all" if multiple == len(devices) else multiple
        warn(
            f"warning: {len(used)} of {len(devices)} devices are used, since config.{field}="
            f"{batch_size} does not divide over more: a multiple of {multiple} uses {all_of}"
        )
    return jax.make_mesh((len(used),), ("data",), (AxisType.Auto,), devices=used)


def replicated(mesh):
    """The sharding of what every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


SHARDINGS = ("replicated", "fsdp")
FEWEST_TO_SPREAD = 2**14  # entries of an array; smaller ones are not worth a message


def state_sharding(mesh, shapes, how):
    """Where each array of a training state lies.

    Args:
      mesh: of `data_mesh`.
      shapes: pytree of arrays or shapes.
      how: "replicated", all of it on every device; or "fsdp", each array in equal parts over the
        devices along its longest axis that they divide (as in ZeRO, Rajbhandari et al. 2020), so
        that the parameters, their average and the optimiser's take less memory.

    Returns:
      A pytree of `NamedSharding`, as `shapes`.
    """

    def place(array):
        fits = [n if n % mesh.size == 0 else 0 for n in array.shape]
        if how != "fsdp" or np.prod(array.shape, dtype=int) < FEWEST_TO_SPREAD or not max(fits):
            return replicated(mesh)
        axis = int(np.argmax(fits))
        return NamedSharding(mesh, PartitionSpec(*[None] * axis, "data"))

    return jax.tree.map(place, shapes)


def over_batch(mesh):
    """The sharding of what is split over the devices by its first axis."""
    return NamedSharding(mesh, PartitionSpec("data"))


def put_whole(array, mesh):
    """A host array, the same in every process, whole on every device; None stays None."""
    if array is None:
        return None
    array = np.asarray(array)
    return jax.make_array_from_callback(array.shape, replicated(mesh), lambda place: array[place])


GIB = 2**30


def size_bytes(tree):
    """Bytes of the arrays in a pytree."""
    return sum(int(np.prod(leaf.shape)) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def device_bytes():
    """Bytes of one device of this machine, or None where that is not known (CPU)."""
    stats = jax.local_devices()[0].memory_stats() or {}
    return stats.get("bytes_limit")
