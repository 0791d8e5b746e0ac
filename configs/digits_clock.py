"""When does it begin to copy, and by how much does augmentation put that off? On digits, offline.

    python main.py --config=configs/digits_clock.py --mode=compare          # 353,090 parameters
    python main.py --config=configs/digits_clock.py:small --mode=compare    # a quarter of them

The same command on each core shares the runs. Samples are looked at every 100 steps, and a run ends
when it has begun to copy, which is read off those looks by the rules of tada_jax/training/clock.py;
or after 8,000 steps. docs/when_to_stop.md has the result.
"""

from ml_collections import ConfigDict

from configs import base, digits_tada


def get_config(variant="whole"):
    start = base.choose(variant, {word: word for word in ("whole", "small")})[0]
    c = digits_tada.get_config()
    c.data.test_fraction = 0.4
    c.compare.methods = ("none", "constant", "tada")
    c.compare.variants.weighted = ConfigDict(dict(tada=dict(schedule="weighted", budget=16.0)))
    c.compare.train_sizes = (50, 100, 200)
    c.compare.seeds = (0, 1, 2)
    c.train.total_steps = 8000
    c.train.stop = "window"
    c.log.best_metric = "window"
    c.log.eval_every = 100
    c.log.metrics_every = 100
    c.log.sample_every = 8000
    c.log.checkpoint_every = 100  # the best in the window is one of those that are saved
    c.sample.steps = 20
    c.evaluate.count = 300
    if start == "small":
        c.model.channels = 16
        c.model.head_channels = 16
        c.model.norm_groups = 16
    return c
