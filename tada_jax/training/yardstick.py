"""By what the quick metrics of a run are measured: only numbers by the same yardstick compare.

Sampler, extractor and number of samples may be changed in a run that goes on. Checkpoints are
ranked, and the clock is read, by the looks since then.
"""

import jax

from tada_jax.data.cache import digest
from tada_jax.metrics import measures
from tada_jax.model import solvers
from tada_jax.setup import length
from tada_jax.system.paths import to_json

NAME = "yardstick"  # of the number, in a line of metrics.jsonl
_OTHER_SAMPLE_FIELDS = ("count", "batch_size", "checkpoint", "ema_width", "ema_step")


def of_sampling(config):
    """Fields on which samples depend, a dict: of `config.sample`, and levels that it may change."""
    c = config.sample
    fields = c.to_dict() | {"stride": solvers.stride_for(c.sampler, c.stride)}
    if config.schedule.name == "edm":  # whose levels may differ from those of training
        fields["edm"] = config.schedule.edm.to_dict()
    return fields


def of(config):
    """A whole number below 2^28 that stands for all on which quick metrics of one network depend.

    Small networks that are fitted to the data set are others with another JAX or kind of device.
    """
    sample = {k: v for k, v in of_sampling(config).items() if k not in _OTHER_SAMPLE_FIELDS}
    measured = {k: v for k, v in config.evaluate.to_dict().items() if k not in ("count", "weights")}
    where = [jax.__version__, jax.default_backend(), measures.RULES]
    return int(digest(to_json([sample, measured, config.log.metrics_count, where]))[:7], 16)


def of_ranks(config):
    """That of the numbers by which checkpoints are ranked; 0 of losses, which depend on nothing."""
    return of(config) if length.best_metric(config) in length.BY_SAMPLES else 0


def same(lines):
    """Those lines of metrics.jsonl whose looks compare with the last one's.

    Lines from before there were yardsticks are taken to.
    """
    last = lines[-1].get(NAME) if lines else None
    return [line for line in lines if line.get(NAME, last) == last]
