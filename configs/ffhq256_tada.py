"""Faces of 256x256 pixels: the network that the paper's transfer experiment starts from.

    python main.py --config=configs/ffhq256_tada.py --config.data.path=images1024x1024
    python main.py --config=configs/ffhq256_tada.py:hflip --config.data.path=...

Data: FFHQ, 70,000 faces, as a folder or zip of any resolution from 256 pixels up (the 1024-pixel
images are 89 GB); they are averaged 2x2 and resized once, and kept on disk (12 GB). Its authors'
page, github.com/NVlabs/ffhq-dataset, says where they lie; the licence is CC BY-NC-SA 4.0.

Cost: a network of 93,563,910 parameters; several accelerators. Learning rate, batch and averaging
are those of a published recipe for a network of this size at 256 pixels; the paper does not state
its own. The band is calibrated to the resolution, [-5.77, -2.77] in native log SNR.

Expected: the paper reports this network only through what is fine-tuned from it, see
afhq256_finetune.py.
"""

from configs import base


def get_config(variant=""):
    method, formulation = base.choose(variant, base.METHODS, base.FORMULATIONS)
    c = base.get_config(method)
    c.data.name = "images"
    c.data.resolution = 256
    c.data.channels = 3
    c.schedule.name = "linear"
    c.model.channels = 128
    c.model.channel_mult = (1, 1, 2, 2, 4, 4)
    c.optimizer.learning_rate = 2e-5
    c.train.batch_size = 8
    c.train.total_steps = 1_000_000
    c.log.eval_every = 10_000
    c.log.sample_every = 10_000
    c.log.checkpoint_every = 10_000
    c.sample.count = 16
    c.sample.batch_size = 16
    return base.formulate(c, formulation, edm_steps=40)
