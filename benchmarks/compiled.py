"""What a TPU would do, without one: programs compiled for a slice, and the compiler's own estimate.

python -m benchmarks.compiled --config=configs/cifar10_tada.py --config.model.dtype=bfloat16
python -m benchmarks.compiled --topology=v5e:2x4 --config=configs/ffhq256_tada.py \\
    --config.model.dtype=bfloat16
python -m benchmarks.compiled --config=... --save=before.json    # at one commit
python -m benchmarks.compiled --config=... --against=before.json # at another
make test-tpu  # whether benchmarks/compiled.json still holds

Needs libtpu beside JAX (requirements-tpu.txt) and no TPU: libtpu compiles for a described slice on
any machine. Of the whole training step (`--program=step`), of drawing a batch (`sample`) or of the
held-out losses (`evaluate`) it prints the cycles that the compiler estimates, by kind of operation
and by place in our code, the largest operations, the memory of a chip beside our own estimate, and
the messages between chips. The figures are the same at every run.

What they leave out: a loop counts as one turn, and look-ups by index hardly count. 1.5e9 cycles are
a second of a v5e, if nothing waits.
"""

import collections
import dataclasses
import json
import os
import pathlib
import re
import time

os.environ |= {"JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}
os.environ |= {"TPU_ACCELERATOR_TYPE": "v5litepod-8"}
os.environ |= {"TPU_WORKER_HOSTNAMES": "localhost", "TPU_WORKER_ID": "0"}

import jax  # noqa: E402 (not before the environment is set)
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
from absl import app, flags  # noqa: E402
from jax.experimental import topologies  # noqa: E402
from ml_collections import config_flags  # noqa: E402

from benchmarks import timing  # noqa: E402
from tada_jax.data.base import Dataset, Split  # noqa: E402
from tada_jax.data.order import shuffled  # noqa: E402
from tada_jax.model.sampler import make_sampler  # noqa: E402
from tada_jax.setup import build  # noqa: E402
from tada_jax.setup.plan import Plan  # noqa: E402
from tada_jax.system import backend  # noqa: E402
from tada_jax.training import calls, device_memory, heldout  # noqa: E402

CONFIG = config_flags.DEFINE_config_file("config", "configs/cifar10_tada.py")
TOPOLOGY = flags.DEFINE_string("topology", "v5e:2x2", "Of the slice, as v5e:2x2 or v6e:2x4.")
CHIPS = flags.DEFINE_integer("chips", None, "Of the slice that take part; None: all.")
PROGRAM = flags.DEFINE_enum("program", "step", ["step", "sample", "evaluate"], "Which one.")
SIDE = flags.DEFINE_integer("side", None, "Of the images, pixels; None: by the configuration.")
CHANNELS = flags.DEFINE_integer("channels", None, "Of the images; None: by the configuration.")
IMAGES = flags.DEFINE_integer("images", None, "In the set; None: 50,000 or config.data.train_size.")
STEPS = flags.DEFINE_integer(
    "steps", 10, "Of training in one call; 1 if the set stays on the host."
)
COUNT = flags.DEFINE_integer("count", 64, "Images that --program=sample draws.")
CLASSES = flags.DEFINE_integer("classes", 0, "Of the images, for class-conditional networks.")
LINES = flags.DEFINE_integer("lines", 12, "Of every table.")
SAVE = flags.DEFINE_string("save", None, "File for the figures.")
AGAINST = flags.DEFINE_string("against", None, "File of --save, to be compared with.")
CHECK = flags.DEFINE_bool("check", False, "Fail if --against has fewer cycles, bytes or messages.")

MESSAGES = ("all-reduce", "all-gather", "all-to-all", "collective-permute", "reduce-scatter")


@dataclasses.dataclass(frozen=True)
class Operation:
    """One operation of a compiled program.

    Attributes:
      cycles: as the compiler estimates.
      name: of the operation that it comes from, as "conv_general_dilated".
      place: in our code: the name stack without what JAX adds, as "UNet/up0_res1/norm_in".
      result: its type and shape.
    """

    cycles: int
    name: str
    place: str
    result: str


def operations(text):
    """The `Operation`s of a compiled program's text."""
    found = []
    for line in text.splitlines():
        cycles = re.search(r'"estimated_cycles":"(\d+)"', line)
        if not cycles:
            continue
        of = re.match(r"\s*(?:ROOT )?%?[\w.-]+ = (\(?[\w\[\],]+).*? ([a-z][\w-]*)\(", line)
        result, kind = of.groups() if of else ("", "")
        stack = re.search(r'op_name="([^"]*)"', line)
        *place, name = (stack[1] if stack else kind).split("/")
        place = "/".join(
            p for p in place if not re.match(r"jit\(|vmap\(|closed_call|while|body", p)
        )
        backward = "transpose(" in place
        place = re.sub(r"\b(jvp|transpose|vmap|checkpoint|rematted_computation)\b|[()]", "", place)
        found.append(
            Operation(int(cycles[1]), name, place + (" backward" if backward else ""), result)
        )
    return found


def messages(text):
    """How often each kind of message is in a compiled program, a dict."""
    found = collections.Counter(re.findall(rf" ({'|'.join(MESSAGES)})(?:-start)?\(", text))
    return dict(found)


ITEM_BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "f32": 4, "s32": 4, "u32": 4}


def message_bytes(text):
    """Bytes of each message of a compiled program, the largest first."""
    found = []
    for result, kind in re.findall(rf" = (.*) ((?:{'|'.join(MESSAGES)})(?:-start)?)\(", text):
        arrays = re.findall(r"(\w+)\[([\d,]*)\]", result)
        if kind in ("all-gather-start", "collective-permute-start"):
            arrays = arrays[1:2]  # what is sent, what arrives, and their state
        found.append(
            sum(
                ITEM_BYTES[dtype] * int(np.prod([int(n) for n in dims.split(",") if n]))
                for dtype, dims in arrays
            )
        )
    return sorted(found, reverse=True)


def planned(config, shape, mesh, images, classes):
    """The `Plan` of a run on so many images of so many classes, which are not there."""
    pixels = np.broadcast_to(np.uint8(0), (images, *shape))  # takes no memory
    labels = np.broadcast_to(np.int32(0), (images,)) if classes else None
    nothing = Split(pixels[:0], None)
    dataset = Dataset("none", Split(pixels, labels), nothing, classes, "no images")
    parts = build.parts(config, shape, classes)
    return Plan(config, dataset, shuffled(images), parts, mesh)


def train_step(plan, count):
    """(the lowered program of a call, our estimate of a device's bytes)."""
    estimate = device_memory.estimate(
        plan.parts, plan.config, plan.mesh.size, plan.image_bytes if plan.resident else 0
    )
    lowered = calls.advance(plan).lower(*calls.arguments(plan), count if plan.resident else 1)
    return lowered, estimate.total


def sampling(plan, count):
    """The lowered program that draws `count` images."""
    draw = make_sampler(plan.parts, plan.mesh, batch_size=count)
    params = _replicated(jax.eval_shape(plan.parts.init_params, jax.random.key(0)), plan.mesh)
    numbers = _replicated(jax.ShapeDtypeStruct((draw.batch,), jnp.int32), plan.mesh)
    return draw.program.lower(params, numbers, np.uint32(0))


def evaluation(plan):
    """The lowered program of the held-out losses."""
    evaluate = heldout.make_evaluation(plan.parts, plan.config, plan.mesh)
    params = _replicated(jax.eval_shape(plan.parts.init_params, jax.random.key(0)), plan.mesh)
    images = jax.ShapeDtypeStruct((evaluate.examples, *plan.parts.image_shape), jnp.uint8)
    labels = None
    if plan.parts.network.num_classes:
        labels = _replicated(jax.ShapeDtypeStruct((evaluate.examples,), jnp.int32), plan.mesh)
    arguments = np.uint32(0), _replicated(images, plan.mesh), labels, np.int32(evaluate.examples)
    return evaluate.program.lower(params, *arguments)


def _replicated(tree, mesh):
    def one(a):
        return jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=backend.replicated(mesh))

    return jax.tree.map(one, tree)


def figures(lowered, seconds_to_lower):
    """What a lowered program would cost, a dict for JSON; compiles it."""
    mark = time.monotonic()
    compiled = lowered.compile()
    text, memory_of = compiled.as_text(), compiled.memory_analysis()
    found = operations(text)
    kinds, places = collections.Counter(), collections.Counter()
    for one in found:
        kinds[one.name] += one.cycles
        places[one.place] += one.cycles
    largest = sorted(found, key=lambda one: -one.cycles)
    return {
        "cycles": sum(kinds.values()),
        "kinds": dict(kinds.most_common()),
        "places": dict(places.most_common()),
        "largest": [dataclasses.astuple(one) for one in largest[:50]],
        "operations": len(found),
        "messages": messages(text),
        "message_bytes": message_bytes(text),
        "argument_bytes": memory_of.argument_size_in_bytes,
        "temporary_bytes": memory_of.temp_size_in_bytes,
        "lower_s": seconds_to_lower,
        "compile_s": time.monotonic() - mark,
    }


def table(title, now, before, total):
    """Prints {name: cycles} in order, with shares of all, and beside what was before."""
    print(f"\n{title}")
    for name, cycles in sorted(now.items(), key=lambda item: -item[1])[: LINES.value]:
        was = f"  (before {before.get(name, 0) / 1e6:9.3f}M)" if before else ""
        print(f"  {cycles / 1e6:9.3f}M {cycles / total:6.1%}{was}  {name or '(none)'}")


def report(found, before):
    """Prints the figures, beside those of another build if there are any."""
    gib, was = 2**30, before or {}

    def beside(name, text):
        return f" (before {text(was[name])}, {found[name] / was[name]:.2f} times)" if was else ""

    def millions(cycles):
        return f"{cycles / 1e6:.2f}M"

    print(f"cycles        {millions(found['cycles'])}{beside('cycles', millions)}")
    own = f"; our estimate {found['estimate_bytes'] / gib:.2f}" if "estimate_bytes" in found else ""
    print(
        f"memory        {found['argument_bytes'] / gib:.2f} GiB of arguments, "
        f"{found['temporary_bytes'] / gib:.2f} of temporaries"
        + (
            f" (before {was['argument_bytes'] / gib:.2f}, {was['temporary_bytes'] / gib:.2f})"
            if was
            else ""
        )
        + own
    )
    sizes = [size / 2**20 for size in found["message_bytes"]]
    print(
        f"messages      {found['messages']}"
        + (f" (before {was['messages']})" if was else "")
        + (f", MiB: {sum(sizes):.1f}, the largest {max(sizes):.3g}" if sizes else "")
    )
    seconds = "{:.0f} s".format
    print(
        f"to compile    {seconds(found['compile_s'])}{beside('compile_s', seconds)}, "
        f"{found['operations']:,} operations"
    )
    table("by kind", found["kinds"], was.get("kinds"), found["cycles"])
    table("by place", found["places"], was.get("places"), found["cycles"])
    print("\nlargest operations")
    for cycles, name, place, result in found["largest"][: LINES.value]:
        print(f"  {cycles / 1e6:9.3f}M {cycles / found['cycles']:6.1%}  {name}  {place}  {result}")


WORSE = {"cycles": 1.03, "argument_bytes": 1.05, "temporary_bytes": 1.05}  # times, at most


def worse(found, before):
    """Lines about what costs more than it did; [] if nothing does."""
    lines = [
        f"{name}: {found[name]:,}, {found[name] / before[name]:.3f} times {before[name]:,}"
        for name, most in WORSE.items()
        if found[name] > most * before[name]
    ]
    if sum(found["messages"].values()) > sum(before["messages"].values()):
        lines.append(f"messages: {found['messages']}, before {before['messages']}")
    return lines


def compile_for(devices, program, config, shape, *, images, steps=10, count=64, classes=0):
    """The `figures` of a program of a configuration on some devices."""
    batch = {"step": config.train.microbatch or config.train.batch_size, "sample": count}
    mesh = backend.data_mesh(batch.get(program, config.train.batch_size), devices)
    mark, estimate = time.monotonic(), None
    plan = planned(config, shape, mesh, images, classes)
    if program == "step":
        lowered, estimate = train_step(plan, steps)
    elif program == "sample":
        lowered = sampling(plan, count)
    else:
        lowered = evaluation(plan)
    found = figures(lowered, time.monotonic() - mark)
    return found | ({"estimate_bytes": estimate} if estimate else {})


def main(_):
    """Compiles and prints."""
    config = CONFIG.value
    if CHECK.value and not AGAINST.value:
        raise SystemExit("error: --check needs --against, a file of --save")
    if config.model.class_conditional != bool(CLASSES.value):
        raise SystemExit(
            "error: --classes is for config.model.class_conditional=True, which needs it"
        )
    shape = timing.image_shape(config, SIDE.value, CHANNELS.value)
    images = IMAGES.value or config.data.train_size or 50_000
    options = {"images": images, "steps": STEPS.value, "count": COUNT.value}
    options["classes"] = CLASSES.value
    devices = topologies.get_topology_desc(platform="tpu", topology_name=TOPOLOGY.value).devices
    devices = list(devices)[: CHIPS.value]
    found = compile_for(devices, PROGRAM.value, config, shape, **options)
    before = json.loads(pathlib.Path(AGAINST.value).read_text()) if AGAINST.value else None
    print(
        f"{PROGRAM.value} for {len(devices)} chips of {TOPOLOGY.value}, {shape}, "
        f"{config.model.dtype}; {timing.machine()}"
    )
    report(found, before)
    if SAVE.value:
        pathlib.Path(SAVE.value).write_text(json.dumps(found, indent=1) + "\n")
    if CHECK.value and (lines := worse(found, before)):
        raise SystemExit("error: it became dearer: " + "; ".join(lines))


if __name__ == "__main__":
    app.run(main)
