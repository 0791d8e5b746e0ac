"""When a run says that something is wrong: it copies, or its numbers are not finite."""

from tada_jax.metrics import tint
from tada_jax.system.errors import UserError
from tada_jax.training import clock


def tinted(lines):
    """A warning when samples have become tinted, as of `copying`."""
    found = [line for line in lines if line.get("tint") is not None]
    if not found or found[-1]["step"] != lines[-1]["step"] or found[-1]["tint"] < tint.VISIBLE:
        return None
    if len(found) > 1 and found[-2]["tint"] >= tint.VISIBLE:
        return None  # said before
    return (
        f"the samples of step {found[-1]['step']:,} are tinted: in one channel they differ from "
        f"held-out images by {found[-1]['tint']:.0f} of 255 or more, on average; early in training "
        "that passes; networks that predict eps are slow to lose it, and those of v are not "
        "(diffusion.parameterisation='v')"
    )


def entering(lines, **counts):
    """A line in plain words when a run enters the window in which to stop, as of `copying`."""
    now = clock.read(lines, **counts)
    if now is None or now.left or now.entered is None or now.entered != lines[-1]["step"]:
        return None
    return (
        f"samples hardly get better: their last {clock.PATIENCE} looks lowered the Frechet "
        f"distance by less than {clock.GOOD - 1:.0%}; the window in which to stop is from here to "
        "the first copies"
    )


def copying(lines, **counts):
    """A warning in plain words when a run has begun to copy its training images.

    Args:
      lines: dicts of metrics.jsonl, up to the step in question.
      **counts: `samples` and `held_out`, as of `clock.read`.

    Returns:
      A line of text if the last of them says so and the one before it did not; else None.
    """
    reasons = []

    def copies_begin(lines):
        return _copies_begin(lines, counts)

    for sign, needed in ((_losses_part, {"test_mse", "train_mse"}), (copies_begin, clock.NEEDED)):
        found = [line for line in lines if needed <= line.keys()]
        if len(found) > 1 and found[-1]["step"] == lines[-1]["step"]:
            now, before = sign(found), len(found) > 2 and sign(found[:-1])
            reasons += [now] if now and not before else []
    if not reasons:
        return None
    return (
        f"the model begins to copy its training images: {' and '.join(reasons)}; stop here, take "
        "the best checkpoint, or augment more"
    )


def _losses_part(lines):
    """Whether the loss rises on held-out images and falls on training images; in words, or None."""
    last, lowest = lines[-1], min(lines, key=lambda line: line["test_mse"])
    rise = last["test_mse"] / lowest["test_mse"] - 1.0
    if rise <= 0.02 or last["train_mse"] >= lowest["train_mse"]:
        return None
    return (
        f"the loss on held-out images is {rise:.0%} above that of step {lowest['step']:,}, "
        "and on training images it still falls"
    )


def _copies_begin(lines, counts):
    """Whether more samples count as copies than held-out images do; in words, or None."""
    now = clock.read(lines, **counts)
    if now is None or not now.left:
        return None
    return (
        f"{now.copies:.0%} of the samples are copies (of held-out images "
        f"{lines[-1]['copies_real']:.0%} would pass as such), more than chance allows since about "
        f"step {now.tau_mem:,.0f}"
    )


# As many steps in a row that are not finite stop a run that would rather skip them.
MOST_SKIPPED = 50


def check_finite(tally, steps, session, skipped=0):
    """What to log about steps whose loss or gradient was not finite; stops the run if it must.

    Args:
      tally: of the last `steps` steps, on the host.
      steps: how many the tally covers.
      session: of the run.
      skipped: steps before them that were skipped, without a good one in between.
    """
    count = int(tally.nonfinite)
    if not count:
        return {}
    at = int(tally.first_nonfinite) + 1
    none_good = skipped + count >= MOST_SKIPPED and count == steps
    if session.plan.config.train.nonfinite == "skip" and not none_good:
        session.progress.say(
            f"warning: skipped {count} of the last {steps} steps, whose loss or gradient was not "
            f"finite, the first at step {at:,}"
        )
        return {"nonfinite": float(count)}
    saved = session.checkpoints.latest_step()
    raise UserError(
        f"the loss or its gradient is not finite at step {at:,} (last good checkpoint: "
        f"{'none' if saved is None else f'step {saved:,}'}): try a smaller "
        "config.optimizer.learning_rate, more warmup_steps, model.dtype='float32', or "
        "train.nonfinite='skip'"
        + ("" if saved is None else "; only the last without another --workdir")
    )
