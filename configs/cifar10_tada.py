"""TADA on CIFAR-10, 50,000 colour images of 32x32 pixels.

    python main.py --config=configs/cifar10_tada.py            # also :constant, :hflip, :none
    python main.py --config=configs/cifar10_tada.py --config.data.path=cifar-10-binary.tar.gz

Data: a prepared tensorflow-datasets copy, a local archive in either published format
(`config.data.path`), or a download of 170 MB, in that order. For small-data experiments take a
subset: --config.data.train_size=1000.

Cost: a network of 42.9M parameters; meant for a GPU or TPU. The paper has no CIFAR-10 figures, so
there is none to expect. The band is the paper's, calibrated from 64 to 32 pixels.
"""

from configs import base


def get_config(variant=""):
    method, formulation = base.choose(variant, base.METHODS, base.FORMULATIONS)
    c = base.get_config(method)
    c.data.name = "cifar10"
    c.model.channels = 128
    c.model.channel_mult = (1, 2, 2, 2)
    c.model.num_res_blocks = 2
    c.model.attention_resolutions = (16,)
    c.model.dropout = 0.1
    c.optimizer.learning_rate = 2e-4
    c.optimizer.warmup_steps = 5000
    c.train.total_steps = 400_000
    c.train.ema_decay = 0.9999
    return base.formulate(c, formulation)
