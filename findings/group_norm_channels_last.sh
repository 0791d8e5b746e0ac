#!/usr/bin/env bash
# group_norm in channels_last is wrong by hundreds where the mean is 1,000 standard deviations
# torch 2.14.0, CPU, Python 3.11
#
# The memory format of a tensor should change the speed of a layer, not its result. On CPU
# torch.nn.functional.group_norm has one kernel for each format, and the one for channels_last loses
# the variance by cancellation when a group's mean is large beside its spread; the output of a
# normalisation, which should lie within about 5, is then off by 0.04 at a mean of 100 and by more than
# its own size at 1,000. The contiguous kernel keeps four digits on the same numbers.
#
# Printed: largest error against float64, input of shape [8, 64, 32, 32], 32 groups, mean + N(0, 1).
# Output seen:
#   mean    0: contiguous 5.9e-07, channels_last 1.8e-06
#   mean  100: contiguous 1.2e-05, channels_last 4.0e-02
#   mean 1000: contiguous 9.9e-05, channels_last 1.3e+03
# What follows: a U-Net that is turned to channels_last for speed on CPU can give other samples (flat
# bright images, activations with an offset); compare the two formats before trusting either.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
"${PYTHON:-python3}" -m venv "$tmp/venv"
"$tmp/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.14.0 numpy==2.4.6
cat > "$tmp/check.py" <<'PY'
import sys

import torch
from torch.nn.functional import group_norm

for mean in (0, 100, 1000):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(8, 64, 32, 32, generator=generator) + mean
    exact = group_norm(x.double(), 32)
    plain = (group_norm(x, 32) - exact).abs().max().item()
    last = (group_norm(x.contiguous(memory_format=torch.channels_last), 32) - exact).abs().max().item()
    print(f"mean {mean:4}: contiguous {plain:.1e}, channels_last {last:.1e}")
    if plain > 1e-3:
        sys.exit("changed: the contiguous kernel is no longer exact to 1e-3")
    if mean >= 100 and last < 100 * plain:
        sys.exit("changed: channels_last is no longer 100 times less exact")
print("as described")
PY
"$tmp/venv/bin/python" "$tmp/check.py"
