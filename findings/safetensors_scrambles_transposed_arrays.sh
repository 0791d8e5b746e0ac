#!/usr/bin/env bash
# A convolution's kernel that was transposed for another framework is scrambled by safetensors, in silence
# safetensors 0.8.0 (0.7.0 is right), numpy 2.4.6, Python 3.11
#
# JAX keeps the kernel of a convolution as [H,W,I,O] and PyTorch as [O,I,H,W], so that every export begins with
# `kernel.transpose(3, 2, 0, 1)`, which in numpy is a view with other strides. safetensors.numpy.save_file of
# 0.8.0 writes the numbers in the order in which they lie in memory, under the shape of the view: the file
# loads, every shape fits, sums and norms agree, and the network computes nonsense. The torch module of the
# same package refuses such tensors; the flax module takes them rightly; 0.7.0 did too. Reported upstream as
# issue 825, not released at the time of writing.
#
# Printed: whether what is loaded equals what was saved.
# Output seen:
#   0.7.0: as it lies True, transposed True, its contiguous copy True
#   0.8.0: as it lies True, transposed False, its contiguous copy True; shape and sum equal True
# What follows: pass numpy.ascontiguousarray of everything that is transposed, and read an export back.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
cat > "$tmp/check.py" <<'PY'
import sys

import numpy as np
import safetensors
from safetensors.numpy import load_file, save_file

kernel = np.random.default_rng(0).normal(size=(3, 3, 4, 8)).astype(np.float32)
theirs = kernel.transpose(3, 2, 0, 1)
cases = {"as it lies": kernel, "transposed": theirs, "its contiguous copy": np.ascontiguousarray(theirs)}
right, text = {}, []
for name, array in cases.items():
    save_file({"kernel": array}, sys.argv[1])
    loaded = load_file(sys.argv[1])["kernel"]
    right[name] = np.array_equal(loaded, array)
    text.append(f"{name} {right[name]}")
    if name == "transposed" and not right[name]:
        alike = loaded.shape == array.shape and np.isclose(loaded.sum(), array.sum(), atol=1e-3)
version = safetensors.__version__
print(f"{version}: {', '.join(text)}" + ("" if right["transposed"] else f"; shape and sum equal {alike}"))
if not right["as it lies"] or not right["its contiguous copy"]:
    sys.exit("changed: other arrays are not right either")
if right["transposed"] != (version == "0.7.0"):
    sys.exit("changed: transposed arrays are " + ("right" if right["transposed"] else "wrong"))
PY
for version in 0.7.0 0.8.0; do
    "${PYTHON:-python3}" -m venv --clear "$tmp/venv"
    "$tmp/venv/bin/pip" install --quiet --disable-pip-version-check safetensors=="$version" numpy==2.4.6
    "$tmp/venv/bin/python" "$tmp/check.py" "$tmp/a.safetensors"
done
echo "as described"
