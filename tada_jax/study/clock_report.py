"""The memorisation clock of a grid: when samples became good and when copies began, by n.

`results` is {`tables.Cell`: `evaluation.Result`}; the rules are those of `training.clock`.
"""

import dataclasses

import numpy as np

from tada_jax.setup import length
from tada_jax.system import figures, logs
from tada_jax.system.paths import to_json, write_whole
from tada_jax.training import clock

PLAIN = "none"  # the method that factors compare with


def write(path, results):
    """Writes clock.json, clock.md and clock.png into a folder.

    Returns:
      Whether there was anything to write: runs that were looked at twice while they trained.
    """
    clocks = read(results)
    if not clocks:
        return False
    write_whole(path / "clock.json", to_json(_everything(results, clocks), indent=1) + "\n")
    write_whole(path / "clock.md", markdown(results, clocks))
    _figure(results, clocks).savefig(path / "clock.png", dpi=110)
    return True


def read(results):
    """{`tables.Cell`: `clock.Clock`} of the cells that have one."""
    found = {}
    for cell, result in results.items():
        samples, held_out = cell.config.log.metrics_count, result.protocol["held_out_images"]
        own = clock.read(logs.read(cell.workdir), samples=samples, held_out=held_out)
        if own is not None:
            found[cell] = own
    return found


def images(cell, results):
    """How many training images a cell has, also where it has all of them."""
    return results[cell].protocol["train_images"]


def fits(results, clocks):
    """{method: (`clock.Fit` or None, numbers of images that it leaves out)} of tau_mem.

    A number of images counts where all its runs were seen to begin to copy: of those where only
    some were, the early ones alone would be fitted; and of one that copied at its first look nobody
    knows when it began.
    """
    found = {}
    for method in dict.fromkeys(cell.method for cell in clocks):
        by_size = {}
        for cell, own in clocks.items():
            if cell.method == method:
                by_size.setdefault(images(cell, results), []).append(
                    None if own.at_once else own.tau_mem
                )
        whole = {n: times for n, times in by_size.items() if None not in times}
        pairs = [(n, tau) for n, times in whole.items() for tau in times]
        fitted = clock.fit(*zip(*pairs)) if pairs else None
        found[method] = fitted, sorted(set(by_size) - set(whole))
    return found


def factors(results, clocks):
    """{method: {n, or None for all: `clock.Factor`}} of tau_mem against `PLAIN`."""
    plain = {(cell.size, cell.seed): own for cell, own in clocks.items() if cell.method == PLAIN}
    found = {}
    for method in dict.fromkeys(cell.method for cell in clocks if cell.method != PLAIN):
        pairs = {}
        for cell, own in clocks.items():
            if cell.method == method and (cell.size, cell.seed) in plain:
                pair = own, plain[cell.size, cell.seed]
                pairs.setdefault(images(cell, results), []).append(pair)
        every = {None: [pair for own in pairs.values() for pair in own], **pairs}
        own = {n: clock.factor(some) for n, some in every.items()}
        own = {n: value for n, value in own.items() if value is not None}
        if own:
            found[method] = own
    return found


def _everything(results, clocks):
    return {
        "rules": " ".join(clock.__doc__.split()),
        "runs": [
            {
                "method": cell.method,
                "train_images": images(cell, results),
                "seed": cell.seed,
                "workdir": cell.workdir.name,
                **dataclasses.asdict(own),
            }
            for cell, own in clocks.items()
        ],
        "not_read": [cell.title for cell in results if cell not in clocks],
        "fits": {
            method: {"fit": fitted and dataclasses.asdict(fitted), "sizes_left_out": left_out}
            for method, (fitted, left_out) in fits(results, clocks).items()
        },
        "factors": {
            method: {"all" if n is None else str(n): dataclasses.asdict(f) for n, f in own.items()}
            for method, own in factors(results, clocks).items()
        },
    }


def markdown(results, clocks):
    """The tables: times by method and n, factors, and the formula."""
    head, rows = times(results, clocks)
    return "\n".join(
        [
            f"**The clock**, {caption(results, clocks)}",
            "",
            f"| {' | '.join(head)} |",
            "|---" * len(head) + "|",
            *(f"| {' | '.join(row)} |" for row in rows),
            "",
            *_factor_lines(results, clocks),
            *_fit_lines(results, clocks),
        ]
    )


def caption(results, clocks):
    """What the table of `times` holds, in words."""
    first = next(iter(clocks))
    seeds = ", ".join(map(str, sorted({cell.seed for cell in clocks})))
    own = (length.settled(cell.config, images(cell, results)) for cell in clocks)
    apart = sorted({config.log.metrics_every for config in own})
    every = f"{apart[0]:,}" + (f" to {apart[-1]:,}" if apart[1:] else "")
    return (
        f"in training steps of {first.config.train.batch_size} images, by looks at "
        f"{first.config.log.metrics_count:,} samples every {every} steps; means over the seeds "
        f"{seeds}, from the first to the last of them in brackets; > where some run had not come "
        "so far when it ended, <= where some copied at its first look"
    )


def times(results, clocks):
    """(head, rows) of a table of the times by method and n, as texts."""
    methods = list(dict.fromkeys(cell.method for cell in clocks))
    sizes = sorted({images(cell, results) for cell in clocks})
    fields = (
        ("tau_gen, samples good", "tau_gen", "last"),
        ("held-out loss lowest", "turn", "last_loss"),
        ("tau_mem, copies begin", "tau_mem", "below"),
    )
    rows = []
    for n in sizes:
        for title, field, bound in fields:
            cells = []
            for method in methods:
                own = [
                    (getattr(c, field), getattr(c, bound), field == "tau_mem" and c.at_once)
                    for cell, c in clocks.items()
                    if cell.method == method and images(cell, results) == n
                ]
                cells.append(_times_text(own))
            rows.append([f"{n:,}", title, *cells])
    return ["images", "", *methods], rows


def _times_text(seen):
    """[(step or None, one that it is later than, whether it is no later)] of the seeds as text."""
    if not seen or any(bound is None for _, bound, _ in seen):
        return ""
    late, early = any(step is None for step, _, _ in seen), any(early for *_, early in seen)
    sign = {(True, False): "> ", (False, True): "<= ", (True, True): "about "}.get(
        (late, early), ""
    )
    values = [bound if step is None else step for step, bound, _ in seen]
    text = f"{sign}{np.mean(values):,.0f}"
    return (
        text if min(values) == max(values) else f"{text} [{min(values):,.0f}, {max(values):,.0f}]"
    )


def _factor_lines(results, clocks):
    found = factors(results, clocks)
    if not found:
        return []
    lines = [f"**tau_mem against {PLAIN}**, a factor at equal images and seed", ""]
    for method, own in found.items():
        by_n = ", ".join(f"{factor_text(f)} (n = {n:,})" for n, f in own.items() if n is not None)
        dropped = own[None].dropped
        why = f"{PLAIN} had not begun to copy, or {method} had before its first look"
        aside = f"; {dropped} pairs do not count: {why}" if dropped else ""
        lines.append(f"- {method}: {factor_text(own[None])}; {by_n}{aside}")
    return [*lines, ""]


def factor_text(f):
    """A `clock.Factor` as text, as "3.1 [2.5, 3.8]", or "> 4.0"."""
    if f.bounds:
        return f"> {f.value:.1f}"
    ends = "" if f.interval is None else " [{:.1f}, {:.1f}]".format(*f.interval)
    return f"{f.value:.1f}{ends}"


def _fit_lines(results, clocks):
    lines = ["**tau_mem = c n^a**, with 95% intervals", ""]
    for method, (fitted, left_out) in fits(results, clocks).items():
        aside = (
            f"; without n = {', '.join(f'{n:,}' for n in left_out)}, where not every run was seen "
        )
        aside = aside + "to begin" if left_out else ""
        if fitted is None:
            lines.append(f"- {method}: no formula, of too few runs or of one n{aside}")
            continue
        lines.append(
            f"- {method}: c = {fitted.c:.3g} [{fitted.c_interval[0]:.3g}, "
            f"{fitted.c_interval[1]:.3g}], a = {fitted.a:.2f} [{fitted.a_interval[0]:.2f}, "
            f"{fitted.a_interval[1]:.2f}], {fitted.runs} runs{aside}; foretells one run of "
            f"{_foretold(fitted, results, clocks)}"
        )
    return [*lines, ""]


def _foretold(fitted, results, clocks):
    """tau_mem of twice as many images as any run had, with its interval, as text."""
    n = 2 * max(images(cell, results) for cell in clocks)
    tau, (low, high) = fitted.predict(n)
    return f"{n:,} images: {tau:,.0f} [{low:,.0f}, {high:,.0f}]"


def _figure(results, clocks):
    """Copies against the step, a panel for each n, and tau_gen and tau_mem against n."""
    from matplotlib.figure import Figure

    sizes = sorted({images(cell, results) for cell in clocks})
    methods = list(dict.fromkeys(cell.method for cell in clocks))
    looks = {method: figures.look(i) for i, method in enumerate(methods)}
    figure = Figure(figsize=(3.6 * len(sizes) + 4.8, 4.2), layout="constrained")
    *panels, last = figure.subplots(1, len(sizes) + 1, width_ratios=(*[1] * len(sizes), 1.35))
    for ax, n in zip(panels, sizes):
        _copies_panel(ax, [c for c in clocks if images(c, results) == n], clocks, looks)
        ax.set(title=f"{n:,} training images", xlabel="training step", ylabel="copies [%]")
    _times_panel(last, results, clocks, looks)
    figures.legend_beside(figure, *figures.entries(figure))
    first = next(iter(clocks))
    seeds = sorted({cell.seed for cell in clocks})
    named = f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"
    return figures.finish(
        figure,
        f"When samples are copies: looks at {first.config.log.metrics_count:,} samples, {named}; "
        "above the grey line more than held-out images show, and from the vertical lines on",
    )


def _copies_panel(ax, cells, clocks, looks):
    """Share of copies of each run; above the grey line it is more than held-out images show."""
    labelled = set()
    for cell in cells:
        lines = [line for line in logs.read(cell.workdir) if "copies" in line]
        color, marker, style = looks[cell.method]
        ax.plot(
            [line["step"] for line in lines],
            [100 * line["copies"] for line in lines],
            color=color,
            marker=marker,
            linestyle=style,
            linewidth=1,
            markersize=4,
            markevery=max(1, len(lines) // 6),
            label=None if cell.method in labelled else cell.method,
        )
        labelled.add(cell.method)
        if clocks[cell].tau_mem is not None:
            ax.axvline(clocks[cell].tau_mem, color=color, linestyle=style, linewidth=0.8, alpha=0.6)
    ax.axhline(100 * max(clocks[c].threshold for c in cells), color="grey", linewidth=1)
    ax.grid(alpha=0.3)


def _times_panel(ax, results, clocks, looks):
    """Both times against n, and the formulas; arrows where it was not seen when copies began."""
    labelled = set()

    def once(label):
        new = label not in labelled
        labelled.add(label)
        return label if new else None

    for cell, own in clocks.items():
        color, marker, _ = looks[cell.method]
        n = images(cell, results)
        if own.tau_mem is None or own.at_once:
            step, way = (own.below, "up") if own.tau_mem is None else (own.tau_mem, "down")
            ax.plot(n, step, color=color, marker=f"$\\{way}arrow$", markersize=11, linestyle="")
        else:
            label = once(f"{cell.method}: copies begin")
            ax.plot(n, own.tau_mem, color=color, marker=marker, linestyle="", label=label)
        if own.tau_gen is not None:
            hollow = {"color": color, "marker": marker, "linestyle": "", "fillstyle": "none"}
            ax.plot(n, own.tau_gen, **hollow, label=once("samples good (hollow)"))
    span = np.array(sorted({images(cell, results) for cell in clocks}), float)
    for method, (fitted, _) in fits(results, clocks).items():
        if fitted is not None:
            color, _, style = looks[method]
            ax.plot(span, fitted.c * span**fitted.a, color=color, linestyle=style, linewidth=1)
    ax.set(xscale="log", yscale="log", xlabel="training images n", ylabel="training step")
    ax.set_title("arrows: not begun at the last look (up), or before the first")
    ax.grid(alpha=0.3, which="both")
