"""A configuration for benchmarks: an ADM of 7.7M parameters at 32x32, small enough for a CPU."""

from configs import cifar10_tada


def get_config(variant=""):
    """That of CIFAR-10 with a smaller network and batch."""
    c = cifar10_tada.get_config(variant)
    c.model.channels = 64
    c.model.channel_mult = (1, 2, 2)
    c.train.batch_size = 32
    c.diffusion.variance = "fixed_large"
    return c
