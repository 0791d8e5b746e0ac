#!/usr/bin/env bash
# libtpu: enlarging an image by jnp.repeat costs 7 times a sum over windows, and averages by mean 17 times
# jax 0.10.2, libtpu 0.0.42.1, Python 3.11; for a v5e, whose compiler needs no TPU
#
# x.repeat(2, axis=1).repeat(2, axis=2), the nearest neighbour of every U-Net, is two copies of the whole image
# for the compiler. The same pixels come from zeros between them and a sum over windows of 2x2 (exact: all but
# one are zero). Averages over 2x2 pixels by reshape and mean, the way down, fare worse still. Each is the
# other's gradient but for a factor, so a network meets both on either way.
#
# Output seen, bfloat16 [32, 16, 16, 256] and back:
#   repeat: 830,336 cycles; pad and reduce_window: 118,852
#   reshape and mean: 856,049 cycles; reduce_window: 50,129
# What follows: write changes of size as windows on TPUs.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
"${PYTHON:-python3}" -m venv "$tmp/venv"
"$tmp/venv/bin/pip" install --quiet --disable-pip-version-check jax==0.10.2 libtpu==0.0.42.1
cat > "$tmp/check.py" <<'PY'
import os
import re
import sys

os.environ |= {"JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}
os.environ |= {"TPU_ACCELERATOR_TYPE": "v5litepod-8"}
os.environ |= {"TPU_WORKER_HOSTNAMES": "localhost", "TPU_WORKER_ID": "0"}
import jax
import jax.numpy as jnp
from jax.experimental import topologies

chip = topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x2").devices[0]
here = jax.sharding.SingleDeviceSharding(chip)


def array(*shape, dtype=jnp.bfloat16):
    return jax.ShapeDtypeStruct(shape, dtype, sharding=here)


def cycles(function, *arguments):
    """What the compiler estimates for a v5e, summed over the operations of the program."""
    text = jax.jit(function).lower(*arguments).compile().as_text()
    return sum(int(n) for n in re.findall(r'"estimated_cycles":"(\d+)"', text))


def repeated(x):
    return x.repeat(2, axis=1).repeat(2, axis=2)


def by_windows(x):
    zero, between = jnp.zeros((), x.dtype), (1, 1, 1)
    apart = jax.lax.pad(x, zero, [(0, 0, 0), between, between, (0, 0, 0)])
    return jax.lax.reduce_window(apart, zero, jax.lax.add, (1, 2, 2, 1), (1, 1, 1, 1), "VALID")


def averaged(x):
    b, h, w, c = x.shape
    return x.reshape(b, h // 2, 2, w // 2, 2, c).mean((2, 4))


def averaged_by_windows(x):
    window = (1, 2, 2, 1)
    sums = jax.lax.reduce_window(x.astype(jnp.float32), 0.0, jax.lax.add, window, window, "VALID")
    return (sums / 4).astype(x.dtype)


some = jax.random.normal(jax.random.key(0), (2, 4, 6, 5))
if (by_windows(some) != repeated(some)).any():
    sys.exit("changed: the windows give other pixels")
if not jnp.allclose(averaged_by_windows(some), averaged(some), atol=1e-6):
    sys.exit("changed: the windows give other averages")
up, up_by_windows = (cycles(f, array(32, 16, 16, 256)) for f in (repeated, by_windows))
down, down_by_windows = (
    cycles(f, array(32, 32, 32, 256)) for f in (averaged, averaged_by_windows)
)
print(f"repeat: {up:,} cycles; pad and reduce_window: {up_by_windows:,}")
print(f"reshape and mean: {down:,} cycles; reduce_window: {down_by_windows:,}")
if not (up > 5 * up_by_windows and down > 10 * down_by_windows):
    sys.exit("changed: repeat and mean are no longer so much dearer")
print("as described")
PY
"$tmp/venv/bin/python" "$tmp/check.py" 2> "$tmp/err" || { cat "$tmp/err"; exit 1; }
