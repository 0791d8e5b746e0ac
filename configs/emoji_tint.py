"""Why are samples of few images tinted? Four ways to train, on emoji.

    python -m benchmarks.transfer FOLDER    # two npm packages -> two folders of pictures
    python main.py --config=configs/emoji_tint.py --mode=compare
    python main.py --workdir=runs/emoji_tint/NAME --mode=evaluate --config.sample.use_ema=False

eps or v, with a learned variance or without, 429 of Twitter's animals, food, places and objects,
two seeds each; 428 are held out. docs/measuring.md has the result.
"""

from ml_collections import ConfigDict

from configs import emoji_transfer


def get_config():
    c = emoji_transfer.get_config("scratch")
    c.method = "hflip"
    c.train.total_steps = 1000
    c.log.sample_every = 500
    c.log.checkpoint_every = 1000
    c.log.eval_every = 500
    c.sample.steps = 50
    c.compare.train_sizes = ()
    c.compare.seeds = (0, 1)
    settings = {
        f"{parameterisation}_{variance}": {
            "diffusion": {
                "parameterisation": parameterisation,
                "variance": {"learned": "learned_range", "fixed": "fixed_small"}[variance],
            }
        }
        for parameterisation in ("eps", "v")
        for variance in ("learned", "fixed")
    }
    c.compare.variants = ConfigDict(settings)
    c.compare.methods = tuple(settings)
    return c
