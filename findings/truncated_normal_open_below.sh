#!/usr/bin/env bash
# jax.random.truncated_normal without a lower bound draws -3.4e38 once in some eight million
# jax 0.10.2, jaxlib 0.10.2, Python 3.11, CPU
#
# With the bounds -inf and inf it ought to be a normal distribution, and whoever lets its users choose where to
# truncate passes them on for "nowhere". It is drawn as the inverse error function of a uniform number between the
# error functions of the bounds, from -1 on and -1 included, which float32 draws once in 2^23; that is minus
# infinity, and what is brought back between the bounds is the most negative float. So it is with only an upper
# bound; one above is never met. jax.random.normal keeps away from -1. A batch of 64 images of 64x64x3 has 786,432
# numbers: one in eleven such batches of noise has one that makes all that it touches NaN or infinite. A bound of 9
# standard deviations, which no other number reaches, takes its place.
#
# Output seen (the counts are of 16 x 2^22 numbers, about 67 million):
#   -inf to inf: 8 of -3.4e+38, else from -5.2 to 5.2
#   -inf to 1: 8 of -3.4e+38, else from -5.2 to 1.0
#   -1 to inf: 0 of -3.4e+38, else from -1.0 to 5.2
#   -9 to 9: 0 of -3.4e+38, else from -9.0 to 5.2
#   normal: 0 of -3.4e+38, else from -5.4 to 5.2
# What follows: truncate at a finite number of standard deviations.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
"${PYTHON:-python3}" -m venv "$tmp/venv"
"$tmp/venv/bin/pip" install --quiet --disable-pip-version-check jax==0.10.2 jaxlib==0.10.2
cat > "$tmp/check.py" <<'PY'
import os
import sys

os.environ["JAX_PLATFORMS"] = "cpu"
import jax
import jax.numpy as jnp

DRAWN, CALLS = (2**22,), 16
CASES = {
    "-inf to inf": lambda key: jax.random.truncated_normal(key, -jnp.inf, jnp.inf, DRAWN),
    "-inf to 1": lambda key: jax.random.truncated_normal(key, -jnp.inf, 1.0, DRAWN),
    "-1 to inf": lambda key: jax.random.truncated_normal(key, -1.0, jnp.inf, DRAWN),
    "-9 to 9": lambda key: jax.random.truncated_normal(key, -9.0, 9.0, DRAWN),
    "normal": lambda key: jax.random.normal(key, DRAWN),
}


@jax.jit
def summary(x):
    far = x < -1e38
    return far.sum(), jnp.where(far, 0, x).min(), x.max()


counts = {}
for name, draw in CASES.items():
    seen = [summary(jax.jit(draw)(jax.random.key(i))) for i in range(CALLS)]
    counts[name] = sum(int(far) for far, _, _ in seen)
    low, high = min(float(s[1]) for s in seen), max(float(s[2]) for s in seen)
    print(f"{name}: {counts[name]} of -3.4e+38, else from {low:.1f} to {high:.1f}")
if not (counts["-inf to inf"] and counts["-inf to 1"]):
    sys.exit("changed: numbers without a lower bound are all finite draws")
if counts["-1 to inf"] or counts["-9 to 9"] or counts["normal"]:
    sys.exit("changed: others draw it too")
PY
"$tmp/venv/bin/python" "$tmp/check.py"
