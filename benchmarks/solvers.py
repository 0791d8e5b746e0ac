"""Error of the deterministic samplers against the exact probability-flow map, over evaluations.

    python benchmarks/solvers.py [--count 64] [--seed 0] [--figure docs/solvers.png]
    python benchmarks/solvers.py --against=diffusers    # schedulers of diffusers beside ours

Two data distributions whose ideal denoiser is known in closed form stand in for a trained network,
so that the figures are the solver's error alone:
  Gaussian  N(0.2, 0.5^2) pixels, linear schedule of T = 20,000, tapered stride; exact map in closed
            form: shows the orders of convergence
  digits    a mixture of ten Gaussians with the means and covariances of the ten classes of
            scikit-learn's 8x8 digits, on the schedules of T = 1000 that users have; exact map by an
            8th-order Runge-Kutta method in float64
Errors are RMS over the pixels of a sample, on images in [-1, 1]: one grey level is .0078. The table
has medians over the samples; the JSON lines also have RMS over the samples, larger where a sample
between two classes falls to the other side. x0_hat is not clipped. The machine matters for the last
digits of float32 only.

`--against=diffusers` asks the schedulers of diffusers (DDIM, DPM-Solver++(2M), UniPC and Heun, in
every setting of their grids, ends and orders that they accept at second order) for the same map by
the same denoiser, as a network would answer: at the timestep that they name, between two of them
interpolated in log SNR. There are as many evaluations as ours, or one less for Heun; the best
setting of each scheduler is printed, by the median, with ours.
"""

import argparse
import itertools
import json
import pathlib
import sys
import warnings
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.integrate import solve_ivp

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from tada_jax.model import schedule, solvers  # noqa: E402
from tada_jax.system.figures import BLUE, GREEN, ORANGE  # noqa: E402

SHAPE = (8, 8, 1)
EVALUATIONS = (5, 10, 15, 20, 30, 50, 100, 1000)

# Rejected methods, here so that the choice can be checked.


def karras(full, steps):
    """EDM's grid (rho = 7) in sigma / alpha, a timestep that is taken already giving the next."""
    s = np.exp(-full.log_snr_table / 2.0)
    grid = np.linspace(s[0] ** (1 / 7), s[-1] ** (1 / 7), steps) ** 7
    kept = np.array([np.abs(np.log(s / g)).argmin() for g in grid])
    i = np.arange(steps)
    kept = np.minimum(np.maximum.accumulate(kept - i) + i, len(full) - steps + i)
    return schedule.Schedule(full.alpha_bar[kept], full.timesteps[kept], full.total_timesteps)


SAMPLERS = {
    "ddim": solvers.ddim,
    "dpmpp_2m": solvers.dpmpp_2m,
    "heun": solvers.heun,
    "edm_heun": solvers.edm_heun,
}
STRIDES = ("even", "logsnr", "tapered")
ROWS = [(sampler, stride) for stride in STRIDES for sampler in SAMPLERS]
ROWS.append(("dpmpp_2m", "karras"))


# Data whose denoiser is known.


class Mixture(NamedTuple):
    """A mixture of K Gaussians in d dimensions."""

    mean: np.ndarray  # [K,d]
    basis: np.ndarray  # [K,d,d], eigenvectors of the covariance in columns
    variance: np.ndarray  # [K,d], along them
    log_share: np.ndarray  # [K]

    def x0_hat(self, z, alpha, sigma, xp=np):
        """Posterior mean of x_0 given z [B,d], for scalar alpha and sigma; xp is numpy or jax's."""
        mean, basis, variance, log_share = (xp.asarray(a, z.dtype) for a in self)
        offset = xp.einsum("kij,bki->bkj", basis, z[:, None] - alpha * mean)
        total = alpha**2 * variance + sigma**2
        log_share = log_share - 0.5 * xp.sum(offset**2 / total + xp.log(total), -1)
        share = xp.exp(log_share - log_share.max(-1, keepdims=True))
        share = share / share.sum(-1, keepdims=True)
        each = mean + xp.einsum("kij,bkj->bki", basis, alpha * variance / total * offset)
        return xp.einsum("bk,bki->bi", share, each)

    def network(self, full):
        """The network that predicts the eps of this x0_hat."""

        def predict(z, t):
            alpha, sigma = full.alpha(t)[0], full.sigma(t)[0]  # the whole batch is at one t
            x0 = self.x0_hat(z.reshape(len(z), -1), alpha, sigma, jnp).reshape(z.shape)
            return (z - alpha * x0) / sigma

        return predict

    def flow(self, z, full):
        """The exact map z_T [B,d] -> x_0 of the schedule, by integration over ln(alpha/sigma)."""
        last = np.log(1e4)  # of alpha/sigma; less noise than this changes no digit that is shown

        def slope(lam, y):
            alpha = 1.0 / np.sqrt(1.0 + np.exp(-2.0 * lam))
            y = y.reshape(z.shape)
            return (self.x0_hat(alpha * y, alpha, alpha * np.exp(-lam)) - y).ravel()

        span = full.log_snr_table[-1] / 2.0, last
        start = z / np.sqrt(full.alpha_bar[-1])
        solved = solve_ivp(slope, span, start.ravel(), method="DOP853", rtol=1e-7, atol=1e-7)
        alpha = 1.0 / np.sqrt(1.0 + np.exp(-2.0 * last))
        y = solved.y[:, -1].reshape(z.shape)
        return self.x0_hat(alpha * y, alpha, alpha * np.exp(-last))


def gaussian(mean=0.2, std=0.5):
    """A single Gaussian with independent pixels."""
    d = int(np.prod(SHAPE))
    return Mixture(np.full((1, d), mean), np.eye(d)[None], np.full((1, d), std**2), np.zeros(1))


def gaussian_flow(z, full, mean=0.2, std=0.5):
    """The exact map of `gaussian`, z_T [B,d] -> x_0."""
    alpha_bar = full.alpha_bar[-1]
    scale = std / np.sqrt(alpha_bar * std**2 + 1.0 - alpha_bar)
    return mean + scale * (z - np.sqrt(alpha_bar) * mean)


def digits(floor=0.02):
    """A Gaussian for each class of the digits; `floor` is added noise, since borders are empty."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = np.round(bunch.images * (255 / 16)).reshape(-1, 64) / 127.5 - 1.0
    classes = [images[bunch.target == k] for k in range(10)]
    covariance = np.stack([np.cov(c.T) + floor**2 * np.eye(64) for c in classes])
    variance, basis = np.linalg.eigh(covariance)
    log_share = np.log([len(c) / len(images) for c in classes])
    return Mixture(np.stack([c.mean(0) for c in classes]), basis, variance, log_share)


# Measurements.


def respaced(full, steps, stride):
    """`schedule.respace`, with the rejected stride too."""
    if stride == "karras":
        return karras(full, steps)
    return schedule.respace(full, steps, stride=stride, side=SHAPE[0])


def measure(name, data, full, exact, keys, rows, evaluations):
    """One dict for each of the rows (sampler, stride) and numbers of network evaluations."""
    lines = []
    for sampler, stride in rows:
        for wanted in evaluations:
            two = sampler.endswith("heun")
            steps = (wanted + 1) // 2 if two else wanted
            short = respaced(full, steps, stride)
            options = {"schedule": short, "shape": SHAPE, "parameterisation": "eps"}
            options |= {"variance": "fixed_large", "clip_x0": False}
            walk, predict = SAMPLERS[sampler], data.network(full)
            x = jax.jit(lambda keys: walk(predict, keys, **options))(keys)  # noqa: B023
            rms = np.sqrt(np.mean((np.asarray(x).reshape(exact.shape) - exact) ** 2, -1))
            line = {"data": name, "sampler": sampler, "stride": stride, "steps": steps}
            line["evaluations"] = 2 * steps - 1 if two else steps
            line |= {"median": float(np.median(rms)), "rms": float(np.sqrt(np.mean(rms**2)))}
            lines.append(line)
    return lines


def table(name, lines, evaluations):
    """Prints the medians, a row for each sampler and stride; heun may have one evaluation less."""
    print(f"\n{name}: median error of a sample against the exact map")
    print(f"{'evaluations':20}" + "".join(f"{n:>10,}" for n in evaluations))
    for sampler, stride in dict.fromkeys((line["sampler"], line["stride"]) for line in lines):
        row = [a for a in lines if (a["sampler"], a["stride"]) == (sampler, stride)]
        print(f"{sampler:12}{stride:8}" + "".join(f"{a['median']:10.5f}" for a in row), flush=True)


def figure(path, panels, *, count, seed):
    """Draws error against evaluations, a panel for each {title: lines}, with slopes 1 and 2."""
    from matplotlib.figure import Figure

    looks = {"ddim": (BLUE, "o"), "dpmpp_2m": (ORANGE, "s"), "heun": (GREEN, "^")}
    drawn = Figure(figsize=(13, 4.4), layout="constrained")
    axes = drawn.subplots(1, len(panels), sharey=True)
    for axis, (title, lines) in zip(axes, panels.items()):
        for (sampler, stride), (color, marker) in (
            ((a, b), looks[a]) for b in ("even", "tapered") for a in looks
        ):
            of = [a for a in lines if (a["sampler"], a["stride"]) == (sampler, stride)]
            if not of:
                continue
            dense = stride == "tapered"
            axis.plot(
                [a["evaluations"] for a in of],
                [a["median"] for a in of],
                color=color,
                marker=marker,
                linestyle="-" if dense else "--",
                markerfacecolor=color if dense else "white",
                label=f"{sampler}, {stride}",
            )
        at = np.array([25.0, 150.0])
        for order, level, style in ((1, 0.35, ":"), (2, 0.0012, "-.")):
            axis.plot(at, level * (at / at[0]) ** -order, color="0.4", linestyle=style, linewidth=1)
            axis.annotate(f"slope {order}", (at[0], level), ha="right", va="center", color="0.3")
        axis.set(xscale="log", yscale="log", ylim=(1e-4, 1.0), title=title)
        axis.set(xlabel="network evaluations a sample")
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("RMS error of a pixel, median [images in -1..1]")
    drawn.legend(*axes[-1].get_legend_handles_labels(), loc="outside right center")
    drawn.suptitle(f"Samplers against the exact flow, ideal denoiser: n = {count}, seed {seed}")
    drawn.savefig(path, dpi=110)


# The schedulers of diffusers.

COMPARED = (10, 20, 50)  # evaluations
PEER_GRIDS = ("karras_sigmas", "lu_lambdas", "exponential_sigmas", "beta_sigmas")


def peers(diffusers):
    """(scheduler's name, class, options) of every setting that is compared."""
    grids = [{}] + [{f"use_{name}": True} for name in PEER_GRIDS]
    spacings = [{"timestep_spacing": name} for name in ("linspace", "leading", "trailing")]
    for spacing in spacings:
        yield "DDIM", diffusers.DDIMScheduler, spacing | {"clip_sample": False}
    to_zero, to_least = ({"final_sigmas_type": end} for end in ("zero", "sigma_min"))
    lower = [{"lower_order_final": yes} for yes in (True, False)]
    ends = [to_zero, *(to_least | low for low in lower), to_least | {"euler_at_final": True}]
    for grid in grids:
        for spacing in spacings if not grid else spacings[:1]:  # other grids have no spacing
            lowest = (-float("inf"), -5.1) if not grid else (-float("inf"),)
            for end, kind, clip in itertools.product(ends, ("midpoint", "heun"), lowest):
                options = grid | spacing | end | {"solver_type": kind, "lambda_min_clipped": clip}
                yield "DPM-Solver++(2M)", diffusers.DPMSolverMultistepScheduler, options
            if "use_lu_lambdas" in grid:
                continue  # the others do not have it
            yield "Heun", diffusers.HeunDiscreteScheduler, grid | spacing
            for end, low, kind in itertools.product((to_zero, to_least), lower, ("bh1", "bh2")):
                options = grid | spacing | end | low | {"solver_type": kind}
                yield "UniPC", diffusers.UniPCMultistepScheduler, options


def drawn_by(scheduler, steps, data, full, z):
    """Images [B,d] that a scheduler of diffusers makes of noise z [B,d]; and its evaluations."""
    import torch

    scheduler.set_timesteps(steps)
    x = torch.from_numpy(z.astype(np.float32)) * float(scheduler.init_noise_sigma)
    lam = full.log_snr_table / 2.0
    for t in scheduler.timesteps:
        seen = np.asarray(scheduler.scale_model_input(x, t), np.float64)
        here = np.interp(float(t), np.arange(len(full)), lam)
        alpha = 1.0 / np.sqrt(1.0 + np.exp(-2.0 * here))
        sigma = alpha * np.exp(-here)
        eps = (seen - alpha * data.x0_hat(seen, alpha, sigma)) / sigma
        x = scheduler.step(torch.from_numpy(eps.astype(np.float32)), t, x).prev_sample
    return np.asarray(x, np.float64), len(scheduler.timesteps)


def measure_peers(data, full, exact, z, name, wanted):
    """One dict for each setting that gives finite images."""
    import diffusers

    lines = []
    for title, kind, options in peers(diffusers):
        steps = (wanted + 1) // 2 if title == "Heun" else wanted
        betas = {"linear": "linear", "cosine": "squaredcos_cap_v2"}[name]
        ends = {"beta_schedule": betas, "beta_start": 1e-4, "beta_end": 0.02}
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                x, evaluations = drawn_by(kind(**ends, **options), steps, data, full, z)
        except (AssertionError, IndexError, ValueError, RuntimeError):
            continue  # combinations that it does not have, or times that its grid repeats
        rms = np.sqrt(np.mean((x - exact) ** 2, -1))
        if np.isfinite(rms).all():
            line = {"schedule": name, "scheduler": title, "evaluations": evaluations}
            line |= {"median": float(np.median(rms)), "rms": float(np.sqrt(np.mean(rms**2)))}
            lines.append(line | {"options": {k: str(v) for k, v in options.items()}})
    return lines


def compare(count, seed):
    """Prints ours and the best settings of diffusers' schedulers, and a JSON line for each."""
    try:
        import diffusers
        import torch
    except ImportError as e:
        sys.exit(
            f"--against=diffusers needs torch and diffusers ({e}): pip install torch diffusers"
        )
    torch.set_num_threads(1)
    keys = solvers.sample_keys(seed, jnp.arange(count))
    z = np.asarray(solvers._noise(keys, 0, SHAPE), np.float64).reshape(count, -1)
    print(f"n = {count}, seed {seed}, jax {jax.__version__}, diffusers {diffusers.__version__}")
    data, chosen = digits(), []
    for name in ("cosine", "linear"):
        full = schedule.make(name, 1000)
        exact = data.flow(z, full)
        rows = [(a, solvers.stride_for(a, "auto")) for a in ("ddim", "dpmpp_2m", "heun")]
        for wanted in COMPARED:
            ours = measure(name, data, full, exact, keys, rows, (wanted,))
            theirs = measure_peers(data, full, exact, z, name, wanted)
            print(f"\n{name}, {wanted} evaluations: median error, RMS over the samples")
            for line in ours:
                title = f"{line['sampler']}, {line['stride']}"
                print(f"  ours {title:32}{line['median']:9.5f}{line['rms']:9.5f}")
            for title in dict.fromkeys(line["scheduler"] for line in theirs):
                settings = [line for line in theirs if line["scheduler"] == title]
                best = min(settings, key=lambda line: line["median"])
                least = min(line["rms"] for line in settings)
                text = f"{title}, best of {len(settings)}"
                print(
                    f"  diffusers {text:27}{best['median']:9.5f}{best['rms']:9.5f}"
                    f"   least RMS of any setting {least:.5f}",
                    flush=True,
                )
                chosen.append(best)
            chosen += ours
    print()
    for line in chosen:
        print(json.dumps(line))


def main():
    """Prints the tables and one JSON line a measurement, and writes the figure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=64, help="samples")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--figure", default="docs/solvers.png")
    parser.add_argument("--against", choices=["diffusers"], help="compare with its schedulers")
    args = parser.parse_args()
    if args.against:
        return compare(args.count, args.seed)

    keys = solvers.sample_keys(args.seed, jnp.arange(args.count))
    z = np.asarray(solvers._noise(keys, 0, SHAPE), np.float64).reshape(args.count, -1)
    print(
        f"n = {args.count}, seed {args.seed}, jax {jax.__version__}, {jax.devices()[0].device_kind}"
    )
    long = schedule.linear(20_000)
    orders = [(sampler, "tapered") for sampler in ("ddim", "dpmpp_2m", "heun")]
    title, evaluations = "Gaussian, linear, T = 20,000", EVALUATIONS[1:-1]
    exact = gaussian_flow(z, long)
    panels = {title: measure(title, gaussian(), long, exact, keys, orders, evaluations)}
    table(title, panels[title], evaluations)
    for name in ("cosine", "linear"):
        full, data, title = schedule.make(name, 1000), digits(), f"digits, {name}, T = 1000"
        exact = data.flow(z, full)
        panels[title] = measure(title, data, full, exact, keys, ROWS, EVALUATIONS)
        table(title, panels[title], EVALUATIONS)
    print()
    for line in (line for lines in panels.values() for line in lines):
        print(json.dumps(line))
    figure(args.figure, panels, count=args.count, seed=args.seed)


if __name__ == "__main__":
    main()
