"""TADA on 1,797 real handwritten digits of 8x8 pixels: the embedded default, offline.

    python main.py --config=configs/digits_tada.py             # TADA
    python main.py --config=configs/digits_tada.py:constant    # same operations, one strength
    python main.py --config=configs/digits_tada.py:hflip       # flips only
    python main.py --config=configs/digits_tada.py:none        # no augmentation

Cost: 3 to 4 minutes on 2 CPU cores. Expect digits that a person can read.

The band is that of these digits, not the paper's: [-4.5, 3] in native log SNR is where rotation,
scale and translation shift the posterior mean of this data set visibly; the paper's band for
64-pixel faces, calibrated down to 8 pixels, would miss most of it. Digits are not flipped, because
a mirrored digit is not a digit.
"""

from configs import base


def get_config(variant=""):
    method, formulation = base.choose(variant, base.METHODS, base.FORMULATIONS)
    c = base.get_config(method)
    c.data.name = "digits"
    c.tada.r_rough = -4.5
    c.tada.r_fine = 3.0
    c.tada.calibration = "none"
    c.augment.ops = ("scale", "rotate_frac", "translate_frac")
    c.augment.xflip_p = 0.0
    c.diffusion.sigma_data = 0.75  # theirs
    c.model.channels = 32
    c.model.channel_mult = (1, 1)
    c.model.attention_resolutions = (4,)
    c.model.head_channels = 32
    c.optimizer.learning_rate = 1e-3
    c.optimizer.warmup_steps = 200
    c.train.batch_size = 128
    c.train.total_steps = 2000
    c.train.ema_decay = 0.998
    c.ema.snapshot_every = 100
    c.log.every = 100
    c.log.eval_every = 1000
    c.log.sample_every = 500
    c.log.checkpoint_every = 1000
    c.log.metrics_every = 1000
    c.sample.steps = 50
    return base.formulate(c, formulation)
