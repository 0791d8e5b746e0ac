#!/usr/bin/env bash
# clu: metrics.Std gathers all it is given and fails when asked for the result
# clu 0.0.12, jax 0.10.2, flax 0.12.8, Python 3.11
#
# clu.metrics has two statistics of a scalar, Average and Std. Both are made, merged and reduced without
# complaint, under jit too, and Average gives its value. Std.compute() calls a function of JAX by an argument
# that JAX no longer has, so the error comes at the first report: after as many training steps as a run has
# between two of them, far from the line that chose the metric. clu asks for no version of jax.
#
# Printed: Average and Std of 0, 1, 2, 3 in two batches.
# Output seen:
#   Average: 1.5
#   Std: merged from total 6, sum of squares 14, count 4
#   Std: TypeError: clip() got an unexpected keyword argument 'a_min'
# What follows: keep two averages, of x and of x * x, and take the root of the difference.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
"${PYTHON:-python3}" -m venv "$tmp/venv"
"$tmp/venv/bin/pip" install --quiet --disable-pip-version-check clu==0.0.12 jax==0.10.2 flax==0.12.8
cat > "$tmp/check.py" <<'PY'
import sys

import jax
import jax.numpy as jnp
from clu import metrics

BATCHES = jnp.arange(2.0), jnp.arange(2.0, 4.0)


def of_batches(kind):
    first, second = (jax.jit(kind.from_model_output)(batch) for batch in BATCHES)
    return first.merge(second)


average, std = of_batches(metrics.Average), of_batches(metrics.Std)
print(f"Average: {average.compute():g}")
sums = float(std.total), float(std.sum_of_squares), float(std.count)
print("Std: merged from total {:g}, sum of squares {:g}, count {:g}".format(*sums))
try:
    said = f"{std.compute():g}"
except TypeError as error:
    said = f"TypeError: {error}"
print(f"Std: {said}")
if average.compute() != 1.5 or sums != (6, 14, 4) or "a_min" not in said:
    sys.exit("changed: Std.compute no longer fails, or Average has changed")
PY
"$tmp/venv/bin/python" "$tmp/check.py"
