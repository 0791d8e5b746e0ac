#!/usr/bin/env bash
# diffusers: a DPM-Solver step of one channel with a learned variance gives two channels
# diffusers 0.42.1, torch 2.14.1, Python 3.11
#
# A network with a learned variance has twice as many outputs as the image has channels. DDPMScheduler splits
# them in the middle. DPMSolverMultistepScheduler, made from the very configuration of the other, takes the
# first three, whatever the image has: right for colours; of a grey image both of the two, prediction and
# variance, which then broadcast against the one channel of the sample. No error, no warning: the next sample
# has two channels, the second of which is denoised by the variance. With v_prediction it splits nothing at all.
#
# Printed: the shape of the sample after one step from [1, C, 8, 8] with a network output of [1, 2C, 8, 8].
# Output seen:
#   DDPMScheduler, 3 channels: 3
#   DDPMScheduler, 1 channel: 1
#   DPMSolverMultistepScheduler, 3 channels: 3
#   DPMSolverMultistepScheduler, 1 channel: 2
# What follows: export grey networks without the learned variance for other samplers than DDPM.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
"${PYTHON:-python3}" -m venv "$tmp/venv"
"$tmp/venv/bin/pip" install --quiet --disable-pip-version-check diffusers==0.42.1 torch==2.14.1 numpy==2.4.2
cat > "$tmp/check.py" <<'PY'
import sys

import torch
from diffusers import DDPMScheduler, DPMSolverMultistepScheduler

ancestral = DDPMScheduler(variance_type="learned_range", beta_schedule="squaredcos_cap_v2")
solver = DPMSolverMultistepScheduler.from_config(ancestral.config)
found = []
for scheduler in (ancestral, solver):
    for channels in (3, 1):
        scheduler.set_timesteps(10)
        torch.manual_seed(0)
        sample, output = torch.randn(1, channels, 8, 8), torch.randn(1, 2 * channels, 8, 8)
        after = scheduler.step(output, scheduler.timesteps[0], sample).prev_sample
        found.append(after.shape[1])
        plural = "s" if channels > 1 else ""
        print(f"{type(scheduler).__name__}, {channels} channel{plural}: {after.shape[1]}")
if found != [3, 1, 3, 2]:
    sys.exit("changed: the channels of a step are others")
print("as described")
PY
"$tmp/venv/bin/python" "$tmp/check.py" 2> "$tmp/err" || { cat "$tmp/err"; exit 1; }
