"""What a grid of runs comes to: means over seeds, paired differences, and tables of them.

`results` is {`Cell`: `evaluation.Result`} throughout.
"""

import dataclasses
import itertools
import json
import pathlib
from typing import Any

import numpy as np

from tada_jax.metrics import intervals
from tada_jax.metrics.measures import MEASURES, printed
from tada_jax.system import logs

IMAGES = ("train_digest", "held_out_digest", "pool_digest")  # of a protocol
# What the tables show; the JSON and the report's appendix have everything.
HEADLINES = (
    "fd/held_out",
    "kid/held_out",
    "precision/held_out",
    "recall/held_out",
    "tint/luma",
    "tint_spread/luma",
    "leak",
    "neither",
    "copies",
    "copy_margin",
    "authentic",
    "c_t",
    "gap",
)


@dataclasses.dataclass(frozen=True, eq=False)
class Cell:
    """One run of a grid.

    Attributes:
      method: as the user wrote it, as "tada" or "constant:0.3".
      size: number of training images; None for all.
      seed: of everything random but the samples.
      config: the run's.
      workdir: its folder.
    """

    method: str
    size: int | None
    seed: int
    config: Any
    workdir: pathlib.Path

    @property
    def title(self):
        """In words."""
        images = "all images" if self.size is None else f"{self.size:,} images"
        return f"{self.method}, {images}, seed {self.seed}"


def seconds_spent(cell):
    """On a cell, over all its sessions."""
    try:
        return float(json.loads((cell.workdir / "seconds.json").read_text()))
    except (OSError, ValueError, TypeError):
        return 0.0


@dataclasses.dataclass(frozen=True)
class Summary:
    """A measure over the seeds of a method and size.

    Attributes:
      values: float64 [seeds], in the order of the seeds.
      seeds: of them.
    """

    values: np.ndarray
    seeds: tuple[int, ...]

    @property
    def mean(self):
        """Over the seeds."""
        return float(self.values.mean())

    @property
    def deviation(self):
        """Standard deviation over the seeds (ddof 1); NaN with one."""
        return float(self.values.std(ddof=1)) if len(self.values) > 1 else float("nan")


def summaries(results, key):
    """{(method, size): Summary} of a measure, leaving out what has no finite value."""
    grouped = {}
    for cell, result in results.items():
        number = result.numbers.get(key)
        if number is not None and np.isfinite(number.value):
            grouped.setdefault((cell.method, cell.size), []).append((cell.seed, number.value))
    return {
        group: Summary(np.array([v for _, v in pairs]), tuple(s for s, _ in pairs))
        for group, pairs in grouped.items()
    }


def paired_differences(results, key, method, other, size):
    """Differences method - other at equal seeds, which share data, initialisation and noise.

    Returns:
      (differences float64 [seeds], 95% bootstrap interval of their mean, over the seeds, or None
      with a single one); None where no seed has both.
    """
    found = summaries(results, key)
    if (method, size) not in found or (other, size) not in found:
        return None
    a, b = (dict(zip(found[m, size].seeds, found[m, size].values)) for m in (method, other))
    images = {
        (cell.method, cell.seed): [result.protocol.get(key) for key in IMAGES]
        for cell, result in results.items()
        if cell.size == size
    }
    both = [s for s in a if s in b and images[method, s] == images[other, s]]
    if not both:
        return None
    differences = np.array([a[seed] - b[seed] for seed in both])
    interval = intervals.resampled(np.mean, differences) if len(both) > 1 else None
    return differences, interval


def methods_and_sizes(results):
    """The methods and the sizes of results, in their order."""

    def unique(values):
        return list(dict.fromkeys(values))

    return unique(cell.method for cell in results), unique(cell.size for cell in results)


def headlines(results):
    """Those of `HEADLINES` that were measured."""
    return [key for key in HEADLINES if summaries(results, key)]


def cell_text(key, summary):
    """Mean and standard deviation over the seeds as text."""
    mean = printed(key, summary.mean)
    deviation = summary.deviation
    return mean if np.isnan(deviation) else f"{mean} ± {printed(key, deviation)}"


def title_of(key):
    """A measure's title with its reference, and which values are better."""
    name, _, reference = key.partition("/")
    against = {"held_out": ", held out", "train": ", train", "all": ", all"}.get(reference, "")
    return f"{MEASURES[name].title}{against}"


def reference_method(methods):
    """The method that the others are compared with."""
    return "tada" if "tada" in methods else methods[-1]


def markdown(results):
    """Tables of means ± standard deviations, and of paired differences."""
    methods, sizes = methods_and_sizes(results)
    keys, lines = headlines(results), []
    seeds = sorted({cell.seed for cell in results})
    for size in sizes:
        images = "all" if size is None else f"{size:,}"
        lines += [
            f"**{images} training images**, mean ± standard deviation over the seeds "
            f"{', '.join(map(str, seeds))}",
            "",
            "| | " + " | ".join(methods) + " | real images | better |",
            "|---" * (len(methods) + 3) + "|",
        ]
        for key in keys:
            found = summaries(results, key)
            cells = [cell_text(key, found[m, size]) if (m, size) in found else "" for m in methods]
            shown = real_text(results, key, size)
            better = MEASURES[key.partition("/")[0]].better
            lines.append(f"| {title_of(key)} | {' | '.join(cells)} | {shown} | {better} |")
        lines.append("")
    return "\n".join(lines + _markdown_differences(results, methods, sizes, keys))


def real_images(results, key, size):
    """What real images score, averaged over the seeds; None where that makes no sense."""
    values = {
        cell.seed: result.numbers[key].real
        for cell, result in results.items()
        if cell.size == size and key in result.numbers and result.numbers[key].real is not None
    }
    return float(np.mean(list(values.values()))) if values else None


def real_text(results, key, size):
    """The same as text, with how many they are where that is fewer than the samples."""
    real = real_images(results, key, size)
    of_size = (r.numbers.get(key) for cell, r in results.items() if cell.size == size)
    fewest = min((number.real_n for number in of_size if number and number.real_n), default=None)
    shown = "" if real is None else printed(key, real)
    return f"{shown} (n={fewest:,})" if shown and fewest else shown


def _markdown_differences(results, methods, sizes, keys):
    base = reference_method(methods)
    others = [method for method in methods if method != base]
    if not others:
        return []
    lines = [
        f"**Paired differences**, {base} minus the other at equal seeds, with a 95% bootstrap "
        "interval over the seeds (with three of them, hardly more than their range)",
        "",
        "| images | | " + " | ".join(f"{base} - {other}" for other in others) + " |",
        "|---" * (len(others) + 2) + "|",
    ]
    for size, key in itertools.product(sizes, keys):
        cells = [difference_text(results, key, base, other, size) for other in others]
        images = "all" if size is None else f"{size:,}"
        lines.append(f"| {images} | {title_of(key)} | {' | '.join(cells)} |")
    return [*lines, ""]


def difference_text(results, key, method, other, size):
    """A paired difference as text, as "-1.2 [-2.0, -0.5]"."""
    found = paired_differences(results, key, method, other, size)
    if found is None:
        return ""
    differences, interval = found

    def show(value):
        return printed(key, value)

    text = show(differences.mean())
    return text if interval is None else f"{text} [{show(interval[0])}, {show(interval[1])}]"


def curves(results, key):
    """{(method, size): (steps, float64 [seeds, steps])} of a scalar of metrics.jsonl."""
    grouped = {}
    for cell in results:
        points = {line["step"]: line[key] for line in logs.read(cell.workdir) if key in line}
        if points:
            grouped.setdefault((cell.method, cell.size), []).append(points)
    found = {}
    for group, runs in grouped.items():
        steps = sorted(set.intersection(*(set(points) for points in runs)))
        values = np.array([[points[step] for step in steps] for points in runs])
        found[group] = (np.array(steps), values)
    return found


def images_text(size):
    """A number of training images in words; None: all."""
    return "all training images" if size is None else f"{size:,} training images"
