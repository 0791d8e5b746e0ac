"""How long a run shall be: when it may begin to copy, and `train.total_steps="auto"`.

Copies begin after a number of steps in proportion to the number of images (Bonnaire et al.,
arXiv 2505.17638), which depends on the network and the data more than anybody can foretell. So
"auto" is no number: the run ends when it is seen to copy, by the rules of `training.clock`, and
what is settled here is how often it looks, and when it ends if it never copies.
"""

import math

from tada_jax.methods.table import METHODS
from tada_jax.model import solvers

AUTO = "auto"

# What checkpoints can be ranked by: what needs no samples, and what does.
BY_LOSS = ("test_mse", "train_mse")
BY_SAMPLES = ("fd", "leak", "copies", "copy_margin", "window")

# How often each image has been seen when copies begin without augmentation, and by how much TADA
# puts that off: the range of all runs that began, in docs/when_to_stop.md. Small networks of 800
# and 1,000 images did not.
PASSES, LATER = (300, 2300), (1.1, 3.3)

LOOKS = 20  # before the first copies
# Training an image takes as long as three passes of the network, a sample one for each time that
# it is evaluated: with looks this many times as far apart as one takes, they are a third of the
# time.
APART = 2.0


def range_of_copies(config, n):
    """(first, last) step at which a run with n images may begin to copy, as far as is known."""
    low, high = (seen * n / config.train.batch_size for seen in PASSES)
    if METHODS[config.method].strength == "tada":
        low, high = low * LATER[0], high * LATER[1]
    return low, high


def expected(config, n):
    """When a run with n images will begin to copy, in a line that says how little is known."""
    low, high = range_of_copies(config, n)
    about = "" if config.method == "none" else " without augmentation, and later here"
    if METHODS[config.method].strength == "tada":
        about = " with TADA"
    line = (
        f"copies may begin between steps {low:,.0f} and {high:,.0f}{about}, the range of small "
        "networks of digits and emoji, or never if there are too many images for the network "
        "(docs/when_to_stop.md); "
    )
    total = config.train.total_steps
    if total == AUTO:
        return line + in_words(settled(config, n))
    seen = f"{total:,} steps show each image {total * config.train.batch_size / n:,.0f} times"
    return f"{line}{seen}; train.stop='window' ends where it is seen"


def settled(config, n):
    """The configuration of a run with n images, its length being a number.

    Another than "auto" stays as it is. Else `train.stop` is "window"; `train.total_steps` the last
    step at which copies may begin, with TADA's delay for every method but none;
    `log.metrics_every`, if it is 0 or more, is such that there are `LOOKS` before the first copies,
    or what a third of the time is enough for, but two; `log.best_metric` is "window", if it was the
    default; and `log.checkpoint_every` is at most as long, and no shorter if a checkpoint is ranked
    by samples, for it would be a look.
    """
    if config.train.total_steps != AUTO:
        return config
    own = config.copy_and_resolve_references().unlock()
    low, high = range_of_copies(config, n)
    if METHODS[config.method].strength != "tada" and config.method != "none":
        high *= LATER[1]
    images = own.log.metrics_count * _passes(own) / 3  # of training, that a look is worth
    affordable = APART * images / own.train.batch_size
    every = math.ceil(min(max(low / LOOKS, affordable), low / 2))
    put(own, max(math.ceil(high), 2 * every))
    own.train.stop = "window"
    own.log.metrics_every = min(own.log.metrics_every or every, every)
    own.log.best_metric = best_metric(config)
    own.log.checkpoint_every = min(own.log.checkpoint_every, own.log.metrics_every)
    if own.log.best_metric in BY_SAMPLES:
        own.log.checkpoint_every = own.log.metrics_every
    return own.lock()


def _passes(config):
    """How often the network is evaluated for a sample."""
    s = config.sample
    guided = config.model.class_conditional and s.guidance not in (0, 1)
    return s.steps * solvers.EVALUATIONS.get(s.sampler, 1) * (2 if guided else 1)


def put(config, total):
    """Sets `train.total_steps`, to which a copy allows but the type that it has.

    Raises:
      TypeError: unless it is a whole number or "auto".
    """
    if total != AUTO and (not isinstance(total, int) or isinstance(total, bool)):
        raise TypeError(f"train.total_steps={total!r} is neither a whole number nor {AUTO!r}")
    with config.train.ignore_type():
        config.train.total_steps = total


def best_metric(config):
    """By what the checkpoints of a run are ranked."""
    best = config.log.best_metric
    by_default = config.train.total_steps == AUTO and best == "test_mse"
    return "window" if by_default else best


def in_words(config):
    """What `settled` made of "auto", as a line."""
    c = config.log
    return (
        "train.total_steps='auto': ends when it begins to copy, or after "
        f"{config.train.total_steps:,} steps; looks at {c.metrics_count:,} samples every "
        f"{c.metrics_every:,} steps, checkpoints every {c.checkpoint_every:,}, the best by "
        f"{c.best_metric!r}"
    )
