"""Does a network lean towards its own images before the loss on others turns? On halves of digits.

    python -m benchmarks.halves [--images=100] [--steps=2500]    # an hour on one CPU core

Two disjoint sets of digits, and for each method and set two networks, of other initialisation,
order and noise. Two networks of the same set differ by what was left to chance; two of different
sets differ by their images too. What the latter differ by *more* is what a network owes to its own
images in particular (after arXiv 2603.03469, that compares networks of disjoint halves). It is
measured at every checkpoint on held-out images, on which neither was trained:

- of denoisers: mean square of the difference of x0_hat, over the noise levels `LEVELS`, as a share
  of the mean square error of the four networks of a method;
- of samples of the same noise: root mean square difference, as a share of that of samples of
  different noise.

Prints a table, and writes docs/halves.png. Runs that are there are not repeated, those that were
interrupted go on.
"""

import argparse
import dataclasses
import itertools
import pathlib

import jax
import numpy as np

from configs import digits_clock
from tada_jax.model.sampler import make_sampler
from tada_jax.setup.plan import load_data
from tada_jax.study.two_networks import denoiser
from tada_jax.system import backend, figures, logs
from tada_jax.system.pixels import to_float
from tada_jax.training import clock, loop, workdir
from tada_jax.training.run import load_run

METHODS = ("none", "tada")
SETS, SEEDS = ("a", "b"), (0, 1)
LEVELS = np.arange(-6.0, 6.1, 1.5)  # native log SNR, nats
SAMPLES = 256
ENOUGH = 0.1  # of the error: from where on a network is said to lean


def configuration(method, folder, name, seed, steps):
    """That of a run of one of the sets."""
    c = digits_clock.get_config("small")
    c.method, c.seed = method, seed
    c.data.name, c.data.path = "images", str(folder / f"{name}.npz")
    c.train.total_steps = steps
    c.train.stop = "steps"
    c.log.best_metric = ""
    c.log.keep_checkpoints = steps
    c.log.sample_every = steps
    return c


def write_sets(folder, n):
    """Two disjoint sets of n digits, with the same held-out ones; nothing if they are there."""
    folder.mkdir(parents=True, exist_ok=True)
    dataset = load_data(digits_clock.get_config("small"))
    order = np.random.default_rng(0).permutation(len(dataset.train.images))
    for i, name in enumerate(SETS):
        path = folder / f"{name}.npz"
        if not path.exists():
            own = dataset.train.images[order[i * n : (i + 1) * n]]
            np.savez(path, x_train=own, x_test=dataset.test.images)
    return dataset.test.images


@dataclasses.dataclass(frozen=True)
class Leaning:
    """Of one method, by checkpoint; shares of what is said above.

    Attributes:
      steps: of the checkpoints.
      same, other: difference of denoisers of the same set, of different sets; of each of two pairs
        of networks, [S,2].
      same_samples, other_samples: of samples, likewise.
      clocks: the `clock.Clock` of each network.
    """

    steps: np.ndarray
    same: np.ndarray
    other: np.ndarray
    same_samples: np.ndarray
    other_samples: np.ndarray
    clocks: tuple

    @property
    def excess(self):
        """By how much networks of other images differ more than those of the same, [S]."""
        return self.other.mean(1) - self.same.mean(1)

    @property
    def least(self):
        """The smallest excess of any two pairs, [S]: above 0, no pair contradicts."""
        return self.other.min(1) - self.same.max(1)

    def begins(self):
        """The first step from which on, three checkpoints at least, it is `ENOUGH`, or None."""
        late = self.excess >= ENOUGH
        steps = [s for i, s in enumerate(self.steps[:-2]) if late[i:].all()]
        return min(steps, default=None)


def measured(runs, held_out):
    """The `Leaning` of the four networks of a method, {(set, seed): folder}."""
    x = to_float(held_out)
    noise = np.asarray(jax.random.normal(jax.random.key(0), x.shape))
    pairs = {
        "same": [((name, 0), (name, 1)) for name in SETS],
        "other": [(("a", 0), ("b", 1)), (("a", 1), ("b", 0))],
    }
    steps = workdir.saved_steps(next(iter(runs.values())))
    found = {"same": [], "other": [], "same_samples": [], "other_samples": []}
    x0_hat = draw = None
    for step in steps:
        loaded = {key: load_run(path, checkpoint=str(step)) for key, path in runs.items()}
        if x0_hat is None:
            first = next(iter(loaded.values()))
            x0_hat, levels = denoiser(first.parts, 256), first.parts.schedule.nearest(LEVELS)[0]
            draw = make_sampler(first.parts, first.mesh, batch_size=SAMPLES)
        hats = {
            key: np.stack([x0_hat(run.ema_params, x, noise, None, t) for t in levels])
            for key, run in loaded.items()
        }
        samples = {
            key: to_float(draw(run.ema_params, range(SAMPLES), seed=0))
            for key, run in loaded.items()
        }
        error = np.mean([np.square(hat - x).mean() for hat in hats.values()])
        for kind, some in pairs.items():
            found[kind].append([np.square(hats[p] - hats[q]).mean() / error for p, q in some])
            close = [_rms(samples[p], samples[q]) for p, q in some]
            far = [_rms(samples[p], np.roll(samples[q], 1, axis=0)) for p, q in some]
            found[f"{kind}_samples"].append(np.divide(close, far))
    clocks = tuple(
        clock.read(logs.read(path), samples=SAMPLES, held_out=len(held_out))
        for path in runs.values()
    )
    return Leaning(np.array(steps), **{k: np.array(v) for k, v in found.items()}, clocks=clocks)


def _rms(a, b):
    return np.sqrt(np.square(a - b).mean())


def figure(leanings, n):
    """Both differences against the step, a column for each method."""
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(5.2 * len(leanings), 7.0), layout="constrained")
    panels = drawn.subplots(2, len(leanings), sharex=True, sharey="row", squeeze=False)
    for column, (method, own) in enumerate(leanings.items()):
        rows = (
            (own.same, own.other, "difference of denoisers\n[share of their error]"),
            (own.same_samples, own.other_samples, "difference of samples\n[share of unrelated]"),
        )
        for ax, (same, other, label) in zip(panels[:, column], rows):
            for i, (values, name) in enumerate(((same, "same images"), (other, "other images"))):
                color, marker, style = figures.look(i)
                every = max(1, len(values) // 8)
                look = {"color": color, "marker": marker, "linestyle": style, "markevery": every}
                ax.plot(own.steps, values.mean(1), **look, label=name)
                ax.fill_between(own.steps, *values.T, color=color, alpha=0.25, linewidth=0)
            for (name, step), style in zip(times(own).items(), ("-", "--", ":")):
                if step is not None:
                    when = f"{name}: {step:,.0f}"
                    ax.axvline(step, color="grey", linestyle=style, linewidth=1, label=when)
            ax.set(xlabel="training step", ylabel=label)
            ax.grid(alpha=0.3)
        panels[0, column].set_title(method)
        panels[0, column].legend(fontsize="small")
    return figures.finish(
        drawn,
        f"Two networks of {n:,} digits each, of the same or of other images: means of two pairs, "
        f"and the pairs;\n719 held-out images, {SAMPLES} samples, seeds 0, 1",
    )


def times(own):
    """{what: mean step over the networks, or None if one has not come so far}."""
    found = {"leans": own.begins()}
    for name, field in (("held-out loss lowest", "turn"), ("copies begin", "tau_mem")):
        seen = [getattr(c, field) for c in own.clocks]
        found[name] = None if None in seen else float(np.mean(seen))
    return found


def table(leanings):
    """The excess at the times of each method, in Markdown."""
    head = ("method", "time", "step", "same images", "other images", "more", "at least")
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for method, own in leanings.items():
        for name, step in times(own).items():
            if step is None:
                lines.append(f"| {method} | {name} | not by {own.steps[-1]:,} | | | | |")
                continue
            i = int(np.argmin(np.abs(own.steps - step)))
            same, other = (
                " and ".join(f"{v:.0%}" for v in pair[i]) for pair in (own.same, own.other)
            )
            lines.append(
                f"| {method} | {name} | {step:,.0f} | {same} | {other} | {own.excess[i]:.1%} | "
                f"{own.least[i]:.1%} |"
            )
    return "\n".join(lines)


def main():
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", type=int, default=100, help="of each set")
    parser.add_argument("--steps", type=int, default=2500, help="of each run")
    parser.add_argument("--folder", type=pathlib.Path, default=pathlib.Path("runs/halves"))
    args = parser.parse_args()
    backend.enable_compilation_cache()
    folder = args.folder / f"n{args.images}-steps{args.steps}"
    held_out = write_sets(folder, args.images)
    leanings = {}
    for method in METHODS:
        runs = {}
        for name, seed in itertools.product(SETS, SEEDS):
            config = configuration(method, folder, name, seed, args.steps)
            runs[name, seed] = folder.absolute() / f"{method}-{name}-seed{seed}"
            if int(loop.train(config, runs[name, seed]).step) < args.steps:
                raise SystemExit("interrupted: the same command goes on")
        leanings[method] = measured(runs, held_out)
    figure(leanings, args.images).savefig("docs/halves.png", dpi=110)
    print(table(leanings))


if __name__ == "__main__":
    main()
