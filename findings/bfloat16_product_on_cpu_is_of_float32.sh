#!/usr/bin/env bash
# jax on CPU: a product of bfloat16 matrices is one of float32, unless float32 is asked for as its result
# jax 0.10.2, jaxlib 0.10.2, Python 3.11, x86-64
#
# a @ b of bfloat16 is compiled to three steps: both matrices become float32, are multiplied as such, and the
# result is rounded. With preferred_element_type=float32, and rounded by hand, the matrices go to the kernel as
# they are, which on processors with AMX takes a seventh of the time (512x512 to 1024x1024, 90 and 650 GFLOP/s
# on two threads). The numbers are the same but for one rounding in 5,000 (the order of sums). So whoever
# asks for more precision gets more speed. XLA_FLAGS=--xla_cpu_max_isa=AVX2 changes nothing of it.
#
# Output seen, besides times that depend on the processor:
#   a @ b: 2 matrices made float32 before the product
#   the same with float32 asked for: 0
#   99.99% of the results equal
# What follows: in bfloat16 on CPUs ask products for float32 and round afterwards.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
"${PYTHON:-python3}" -m venv "$tmp/venv"
"$tmp/venv/bin/pip" install --quiet --disable-pip-version-check jax==0.10.2
cat > "$tmp/check.py" <<'PY'
import re
import sys
import time

import jax
import jax.numpy as jnp

x = jax.random.normal(jax.random.key(0), (512, 512)).astype(jnp.bfloat16)


@jax.jit
def plain(a, b):
    return a @ b


@jax.jit
def asked(a, b):
    return jnp.matmul(a, b, preferred_element_type=jnp.float32).astype(a.dtype)


def made_float32(function):
    text = function.lower(x, x).compile().as_text()
    return len(re.findall(r"= f32\[512,512\]\S* convert\(", text))


def milliseconds(function):
    best = float("inf")
    for _ in range(20):
        start = time.perf_counter()
        function(x, x).block_until_ready()
        best = min(best, time.perf_counter() - start)
    return best * 1e3


of_plain, of_asked = made_float32(plain), made_float32(asked)
equal = float((plain(x, x) == asked(x, x)).mean())
print(f"a @ b: {of_plain} matrices made float32 before the product")
print(f"the same with float32 asked for: {of_asked}")
print(f"{equal:.2%} of the results equal")
print(f"{milliseconds(plain):.2f} and {milliseconds(asked):.2f} ms here")
if (of_plain, of_asked) != (2, 0) or equal < 0.99:
    sys.exit("changed: products of bfloat16 are compiled otherwise")
print("as described")
PY
JAX_PLATFORMS=cpu "$tmp/venv/bin/python" "$tmp/check.py" 2> "$tmp/err" || { cat "$tmp/err"; exit 1; }
