#!/usr/bin/env bash
# libtpu: jax.random.normal for a batch over several chips sends a message if the batch is as long as a side
# jax 0.10.2, libtpu 0.0.42.1, Python 3.11; for a v5e of 2x2 chips, whose compiler needs no TPU
#
# Numbers of threefry depend on their place alone, so each chip can draw its own part: x + normal(key, x.shape)
# for x [B, H, W, C], spread over the first axis, needs no message, and has none with B = 64 and H = W = 32. With
# B = 32 there is one: the numberings of two axes of equal length are one array to the compiler, which spreads it
# for the one and gathers it for the other. So it is for H = B or W = B (8, 16, 32, 64 and 128 were seen), for
# uniform as well, and with a sharding constraint on the numbers. A batch of 64 images of 64x64 is no rare one.
# XLA for CPUs sends nothing. Drawn as one row, and then put into shape, the numbers are the same, bit for bit,
# without a message.
#
# Output seen:
#   [64, 32, 32, 3]: 0 messages
#   [32, 32, 32, 3]: 1 message
#   [32, 16, 32, 3]: 1 message
#   [32, 32, 32, 3], drawn as one row: 0 messages
# What follows: draw the noise of a batch as one row.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
"${PYTHON:-python3}" -m venv "$tmp/venv"
"$tmp/venv/bin/pip" install --quiet --disable-pip-version-check jax==0.10.2 libtpu==0.0.42.1
cat > "$tmp/check.py" <<'PY'
import math
import os
import re
import sys

os.environ |= {"JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}
os.environ |= {"TPU_ACCELERATOR_TYPE": "v5litepod-8"}
os.environ |= {"TPU_WORKER_HOSTNAMES": "localhost", "TPU_WORKER_ID": "0"}
import jax
import jax.numpy as jnp
from jax.experimental import topologies
from jax.sharding import AxisType, NamedSharding, PartitionSpec

chips = topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x2").devices
mesh = jax.make_mesh((4,), ("data",), (AxisType.Auto,), devices=list(chips))
over_batch = NamedSharding(mesh, PartitionSpec("data"))


def as_one_row(key, shape):
    return jax.random.normal(key, (math.prod(shape),)).reshape(shape)


def messages(draw, shape):
    def noised(seed, x):
        return x + draw(jax.random.key(seed), x.shape)

    x = jax.ShapeDtypeStruct(shape, jnp.float32, sharding=over_batch)
    text = jax.jit(noised).lower(jnp.uint32(0), x).compile().as_text()
    return len(re.findall(r" (?:all-reduce|all-gather|all-to-all|collective-permute)(?:-start)?\(", text))


found = []
for shape in ((64, 32, 32, 3), (32, 32, 32, 3), (32, 16, 32, 3)):
    found.append(messages(jax.random.normal, shape))
    print(f"{list(shape)}: {found[-1]} message{'s' * (found[-1] != 1)}")
found.append(messages(as_one_row, (32, 32, 32, 3)))
print(f"[32, 32, 32, 3], drawn as one row: {found[-1]} messages")
key, shape = jax.random.key(0), (4, 4, 4, 3)
if (as_one_row(key, shape) != jax.random.normal(key, shape)).any():
    sys.exit("changed: one row gives other numbers")
if found != [0, 1, 1, 0]:
    sys.exit("changed: the messages are others")
print("as described")
PY
"$tmp/venv/bin/python" "$tmp/check.py" 2> "$tmp/err" || { cat "$tmp/err"; exit 1; }
