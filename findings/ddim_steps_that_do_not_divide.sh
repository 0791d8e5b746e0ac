#!/usr/bin/env bash
# DDIM with a number of steps that does not divide T mixes up its noise levels
# diffusers 0.42.1, torch 2.14.0, CPU, Python 3.11
#
# One would expect 501 steps of DDIM to be about as exact as 500, whatever the spacing of the steps.
# The scheduler takes the next level of noise to be t - floor(T / steps), not the next entry of its
# list of timesteps. With timestep_spacing "linspace" or "trailing" the list is spread over all of T,
# so where steps does not divide T the image is brought to one level and the network is asked about
# a lower one: noise is left over at every step. DDPMScheduler reads the list and is not affected.
#
# Data are a Gaussian with mean 0.3 and standard deviation 0.25, for which the best denoiser has a
# closed form, so a correct sampler ends at 0.30 and 0.25. Output seen:
#   linspace DDIM  250: 0.246  334: 0.393  400: 0.327  500: 0.247  501: 0.498  700: 0.377
#   linspace DDPM  250: 0.238  334: 0.241  400: 0.243  500: 0.241  501: 0.241  700: 0.243
#   trailing DDIM  250: 0.244  334: 0.393  400: 0.326  500: 0.247  501: 0.498  700: 0.377
#   trailing DDPM  250: 0.238  334: 0.241  400: 0.242  500: 0.241  501: 0.241  700: 0.242
# What follows: 334, 400, 501 or 700 steps give samples with 1.3 to 2 times the spread of the data, as
# if the network were badly trained; take divisors of T (250, 500, 1000) or another scheduler.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
"${PYTHON:-python3}" -m venv "$tmp/venv"
"$tmp/venv/bin/pip" install --quiet --disable-pip-version-check \
    diffusers==0.42.1 torch==2.14.0 numpy==2.4.6
cat > "$tmp/check.py" <<'PY'
import sys

import torch
from diffusers import DDIMScheduler, DDPMScheduler

MEAN, STD = 0.3, 0.25


def spread(scheduler, steps):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(500, 3, 2, 2, generator=generator)
    scheduler.set_timesteps(steps)
    for t in scheduler.timesteps:
        a = scheduler.alphas_cumprod[t]
        noise = (1 - a).sqrt() * (x - a.sqrt() * MEAN) / (a * STD**2 + 1 - a)
        x = scheduler.step(noise, t, x, generator=generator).prev_sample
    return x.std().item()


seen = {}
for spacing in ("linspace", "trailing"):
    for name, kind in (("DDIM", DDIMScheduler), ("DDPM", DDPMScheduler)):
        for steps in (250, 334, 400, 500, 501, 700):
            scheduler = kind(1000, clip_sample=False, timestep_spacing=spacing)
            seen[spacing, name, steps] = spread(scheduler, steps)
        row = "  ".join(f"{n}: {seen[spacing, name, n]:.3f}" for n in (250, 334, 400, 500, 501, 700))
        print(f"{spacing:8} {name}  {row}")

for spacing in ("linspace", "trailing"):
    for steps in (250, 500):
        if not abs(seen[spacing, "DDIM", steps] - STD) < 0.02:
            sys.exit(f"changed: DDIM with {steps} steps, {spacing}, no longer keeps the spread")
    for steps in (334, 400, 501, 700):
        if not seen[spacing, "DDIM", steps] > 1.2 * STD:
            sys.exit(f"changed: DDIM with {steps} steps, {spacing}, no longer leaves noise")
        if not abs(seen[spacing, "DDPM", steps] - STD) < 0.02:
            sys.exit(f"changed: DDPM with {steps} steps, {spacing}, no longer keeps the spread")
print("as described")
PY
"$tmp/venv/bin/python" "$tmp/check.py"
