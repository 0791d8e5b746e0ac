"""Goes on from a network that others have trained, on a folder of your own images.

    python main.py --config=configs/finetune.py:ffhq.pt --config.data.path=pictures --dry_run
    python main.py --config=configs/finetune.py:ddpm-celebahq-256 --config.data.path=pictures
    python main.py --config=configs/finetune.py:model.pt@64 --config.data.path=pictures

The file is a .pt of guided-diffusion, improved-diffusion or P2-weighting, .safetensors with their
names, or a folder of diffusers with a UNet2DModel. Which network it is, its tensors tell;
`--dry_run` prints it, and what they do not tell (docs/weights.md). Behind an @ stands the
resolution of images, where the weights tell none or another is wanted.

Cost: that of the network; learning rate and batch are those of published fine-tuning at 256 pixels.
"""

from configs import base
from tada_jax.system.errors import UserError
from tada_jax.weights import load, read


def get_config(variant=""):
    """The configuration for some weights; `variant` is their path, perhaps with @ and a side."""
    path, at, side = variant.rpartition("@")
    if not at or not side.isdigit():
        path, side = variant, None
    if not path:
        raise UserError("name the weights: --config=configs/finetune.py:FILE")
    weights = read.read(path)
    side = int(side or weights.inferred.resolution or 0)
    if not side:
        raise UserError(
            f"{path} does not tell its resolution: write it behind an @, for images of 64 pixels "
            f"--config=configs/finetune.py:{path}@64"
        )
    c = base.get_config()
    c.init.weights = path
    c.data.name = "images"
    c.data.resolution = side
    c.data.channels = weights.inferred.in_channels
    for field, value in load.config_lines(weights, side).items():
        section, _, name = field.partition(".")
        c[section][name] = value
    c.optimizer.learning_rate = 2e-5
    c.train.batch_size = 8 if side >= 256 else 32
    c.train.total_steps = 20_000
    c.log.eval_every = 1000
    c.log.sample_every = 1000
    c.log.checkpoint_every = 1000
    c.sample.count = 16
    c.sample.batch_size = 16
    return c
