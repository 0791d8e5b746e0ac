"""When does it begin to copy, and by how much does augmentation put that off? On colour pictures.

    python -m benchmarks.transfer FOLDER    # two npm packages -> two folders of pictures
    python main.py --config=configs/emoji_clock.py --mode=compare       # at 32x32, for hours
    python main.py --config=configs/emoji_clock.py:8px --mode=compare   # at 8x8

Google's emoji, of all kinds; 40% of 1,906 are held out. As configs/digits_clock.py, with the band
from each training set (tada.band=auto). At 8x8 with the network, the batches and the looks of the
digits: 300 images begin to be copied within minutes, 1,000 had not by 16,000 steps.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(variant="32px"):
    start = base.choose(variant, {word: word for word in ("32px", "8px")})[0]
    c = base.get_config("none")
    c.data.name = "images"
    c.data.path = "runs/emoji/google"
    c.data.resolution = 32
    c.data.test_fraction = 0.4
    c.tada.band = "auto"
    c.diffusion.parameterisation = "v"
    c.model.channels = 16
    c.model.channel_mult = (1, 2, 2)
    c.model.attention_resolutions = (8,)
    c.model.head_channels = 32
    c.model.norm_groups = 8
    c.optimizer.learning_rate = 1e-3
    c.optimizer.warmup_steps = 200
    c.train.batch_size = 32
    c.train.total_steps = 20_000
    c.train.stop = "window"
    c.train.ema_decay = 0.998
    c.log.every = 100
    c.log.eval_every = 200
    c.log.metrics_every = 200
    c.log.sample_every = 20_000
    c.log.checkpoint_every = 200  # the best in the window is one of those that are saved
    c.log.best_metric = "window"
    c.log.metrics_count = 128
    c.sample.steps = 20
    c.evaluate.count = 300
    c.evaluate.fit_steps = 400
    c.compare.methods = ("none", "constant", "tada", "weighted", "ambient")
    c.compare.variants.weighted = ConfigDict(dict(tada=dict(schedule="weighted", budget=16.0)))
    c.compare.train_sizes = (100, 300)
    c.compare.seeds = (0, 1)
    if start == "8px":
        c.data.resolution = 8
        c.model.channels = 32
        c.model.channel_mult = (1, 1)
        c.model.attention_resolutions = (4,)
        c.train.batch_size = 128
        c.train.total_steps = 16_000
        c.log.eval_every = 100
        c.log.metrics_every = 100
        c.log.sample_every = 16_000
        c.log.checkpoint_every = 100
        c.log.metrics_count = 256
    return c
