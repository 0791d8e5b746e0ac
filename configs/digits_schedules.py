"""Which schedule trades leakage for memorisation best? On 200 digits, offline.

    python main.py --config=configs/digits_schedules.py --mode=compare
    python main.py --config=configs/digits_schedules.py:where --mode=compare
    python main.py --config=configs/digits_schedules.py:weighted --mode=compare

Constant strengths, the paper's band as it stands and calibrated to 8 pixels, and what follows from
the sensitivity profile at several budgets: the fitted parabola, the free-form schedule, and one of
each operation. Three seeds; 719 digits are held out. The second command asks where augmentation
helps against copying, and where it leaks: w = 1 below the band only, above it only, and weak
augmentation in parts of it only; one seed. The third has the schedules that followed from its
answers, three seeds again. docs/sensitivity.md has the results.
"""

from ml_collections import ConfigDict

from configs import digits_compare

BUDGETS = (0.25, 1.0, 4.0)
WEIGHTED_BUDGETS = (4, 16, 64)
BAND = (-4.2, 4.5)  # of 200 digits

# name: (from, to, w), native log SNR; elsewhere w is 0
WHERE = {
    "below": (-99.0, BAND[0], 1.0),
    "above": (BAND[1], 99.0, 1.0),
    "inside_rough": (BAND[0], -1.0, 0.2),
    "inside_middle": (-1.0, 2.0, 0.2),
    "inside_fine": (2.0, BAND[1], 0.2),
    "from_2_weak": (2.0, 99.0, 0.1),
    "from_2_strong": (2.0, 99.0, 0.4),
}


def _only(low, high, w):
    """The table of a schedule that is w between two levels and 0 elsewhere."""
    step = 1e-3
    return ((low - step, 0.0), (low, w), (high, w), (high + step, 0.0))


def get_config(variant=""):
    if variant not in ("", "where", "weighted"):
        raise ValueError(f"{variant!r} is unknown, choose of: where, weighted")
    c = digits_compare.get_config()
    c.log.metrics_every = 0
    c.compare.train_sizes = (200,)
    {"": _schedules, "where": _where, "weighted": _weighted}[variant](c)
    return c


def _budgets(c, families):
    """Adds a variant `<family>_<budget>` for each, and a curve of each family; their names."""
    names, (k, v) = [], c.sensitivity.thresholds
    for family, budgets in families.items():
        own = []
        for budget in budgets:
            fields = dict(tada=dict(schedule=family, budget=float(budget)))
            if family == "fitted":  # its budget is in the thresholds
                thresholds = dict(thresholds=(k * budget, v * budget))
                fields = dict(tada=dict(schedule="fitted"), sensitivity=thresholds)
            own.append(f"{family}_{budget:g}".replace(".", "_"))
            c.compare.variants[own[-1]] = ConfigDict(fields)
        c.compare.curves[family] = tuple(own)
        names += own
    return names


def _schedules(c):
    paper = dict(schedule="paper", r_rough=-3.0, r_fine=0.0)
    c.compare.variants.paper = ConfigDict(dict(tada=dict(paper, calibration="none")))
    c.compare.variants.paper_8px = ConfigDict(dict(tada=dict(paper, calibration="resolution")))
    families = dict.fromkeys(("fitted", "freeform", "per_operation"), BUDGETS)
    names = _budgets(c, families)
    constant = ("constant:0.5", "constant")
    c.compare.curves.constant = constant
    c.compare.methods = ("none", *constant, "paper", "paper_8px", *sorted(names))


def _intervals(c, names):
    for name in names:
        fields = dict(tada=dict(schedule="table", table=_only(*WHERE[name])))
        c.compare.variants[name] = ConfigDict(fields)
    return names


def _where(c):
    c.compare.methods, c.compare.seeds = _intervals(c, tuple(WHERE)), (0,)


def _weighted(c):
    names = _budgets(c, dict(weighted=WEIGHTED_BUDGETS, fitted=(16,)))
    c.compare.methods = (*names, *_intervals(c, ("from_2_strong",)))
