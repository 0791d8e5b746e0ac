#!/usr/bin/env bash
# libtpu: the sum of a bfloat16 array over all but its channels costs 19 times a product with ones
# jax 0.10.2, libtpu 0.0.42.1, Python 3.11; for a v5e, whose compiler needs no TPU
#
# The gradient of a bias is the sum of its cotangent over batch and pixels. Written as a sum, the compiler's
# estimate is 109,312 cycles for [32, 32, 32, 128]; as eight rows of ones times it, which the matrix unit adds
# up in float32 besides, 5,753. One row of ones is turned into a sum again, of float32.
#
# Output seen:
#   sum over three axes: 109,312 cycles
#   one row of ones: 59,204 cycles
#   eight rows of ones: 5,753 cycles
# What follows: gradients of biases by a product, where a network has a bias for each convolution.
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


def ones(rows):
    over = ((1, 2, 3), (0, 1, 2))

    def product(a):
        left = jnp.ones((rows, *a.shape[:3]), a.dtype)
        return jax.lax.dot_general(left, a, (over, ((), ())), preferred_element_type=jnp.float32)[0]

    return product


a = array(32, 32, 32, 128)
summed, one, eight = (cycles(f, a) for f in (lambda a: a.sum((0, 1, 2)), ones(1), ones(8)))
print(f"sum over three axes: {summed:,} cycles")
print(f"one row of ones: {one:,} cycles")
print(f"eight rows of ones: {eight:,} cycles")
if not (summed > 15 * eight and one > 8 * eight):
    sys.exit("changed: a sum is no longer so much dearer")
print("as described")
PY
"$tmp/venv/bin/python" "$tmp/check.py" 2> "$tmp/err" || { cat "$tmp/err"; exit 1; }
