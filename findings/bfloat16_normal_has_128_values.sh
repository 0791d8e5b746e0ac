#!/usr/bin/env bash
# jax.random.normal in bfloat16 knows 128 values and none beyond 2.9
# jax 0.10.2, CPU, Python 3.11
#
# One would expect noise drawn with dtype=bfloat16 to be normal noise rounded to bfloat16: thousands
# of values (small numbers are finely spaced) and tails as far as the number of draws allows. It is
# the inverse error function of a uniform number that is itself drawn in bfloat16, which has 128
# values; so the noise has 128, the outermost at 2.89 and none nearer to zero than 0.0049.
# float16 has 1,024 values and ends at 3.5. Drawn in float32 and then cast, the noise is as expected.
#
# 4,000,000 draws each; a normal variable exceeds 3 in size with probability 0.0027. Output seen:
#   bfloat16           :   128 values, largest 2.89, smallest size 4.9e-03, beyond 3: 0.00000
#   float16            :  1024 values, largest 3.49, smallest size 6.1e-04, beyond 3: 0.00291
#   float32 as bfloat16:  4110 values, largest 5.22, smallest size 6.7e-07, beyond 3: 0.00262
# What follows: a network trained with noise of the dtype of its images never meets the tails that a
# sampler starting from float32 noise hands it; draw in float32 and cast.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
"${PYTHON:-python3}" -m venv "$tmp/venv"
"$tmp/venv/bin/pip" install --quiet --disable-pip-version-check \
    jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6
cat > "$tmp/check.py" <<'PY'
import sys

import jax
import jax.numpy as jnp
import numpy as np

COUNT = (4_000_000,)
key = jax.random.key(0)
draws = {
    "bfloat16": jax.random.normal(key, COUNT, jnp.bfloat16),
    "float16": jax.random.normal(key, COUNT, jnp.float16),
    "float32 as bfloat16": jax.random.normal(key, COUNT, jnp.float32).astype(jnp.bfloat16),
}
seen = {}
for name, x in draws.items():
    size = np.abs(np.asarray(x).astype(np.float64))
    values = len(np.unique(np.asarray(x).astype(np.float32)))
    seen[name] = values, size.max(), (size > 3).mean()
    print(
        f"{name:19}: {values:5} values, largest {size.max():.2f}, smallest size {size.min():.1e}, "
        f"beyond 3: {(size > 3).mean():.5f}"
    )
if seen["bfloat16"][0] != 128 or seen["bfloat16"][1] > 3:
    sys.exit("changed: bfloat16 has other values than the 128 within 3")
if seen["float16"][0] != 1024 or seen["float16"][1] > 3.6:
    sys.exit("changed: float16 has other values than the 1,024 within 3.6")
if seen["float32 as bfloat16"][0] < 1000 or not 0.002 < seen["float32 as bfloat16"][2] < 0.0035:
    sys.exit("changed: casting from float32 no longer gives normal noise")
print("as described")
PY
"$tmp/venv/bin/python" "$tmp/check.py" 2> "$tmp/log" || {
    status=$?
    tail -n 5 "$tmp/log"
    exit "$status"
}
