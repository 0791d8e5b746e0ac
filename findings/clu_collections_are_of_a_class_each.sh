#!/usr/bin/env bash
# clu: Collection.create makes a class at each call, so a jitted step that takes its metrics compiles anew
# clu 0.0.12, jax 0.10.2, flax 0.12.8, Python 3.11
#
# `Collection.create(loss=Average.from_output("loss"))` returns a class. Two calls with equal arguments return
# two classes, which JAX registers as two kinds of pytree. A function under jit that is given the empty
# metrics of the first compiles for them, and again for those of the second, though all arrays are alike and
# the function object is the same. Nothing is said; in a loop that sets its metrics up once for each run (a
# grid of runs in a process, a test after another) every run pays for a compilation of the whole step.
#
# Printed: how many programs one jitted function holds after three runs.
# Output seen:
#   a class for each run: 3 programs
#   one class for all: 1 program
# What follows: make the class once, as a module's constant or behind functools.cache.
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


def make():
    return metrics.Collection.create(loss=metrics.Average.from_output("loss"))


def programs(classes):
    @jax.jit
    def step(means, x):
        return means.merge(type(means).single_from_model_output(loss=x))

    for each in classes:
        step(each.empty(), jnp.float32(2.0))
    return step._cache_size()


once = make()
several, single = programs([make() for _ in range(3)]), programs([once] * 3)
print(f"a class for each run: {several} programs")
print(f"one class for all: {single} program")
if (several, single) != (3, 1):
    sys.exit("changed: equal collections no longer compile once each")
print("as described")
PY
"$tmp/venv/bin/python" "$tmp/check.py" 2> "$tmp/err" || { cat "$tmp/err"; exit 1; }
