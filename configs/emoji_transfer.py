"""Does augmentation help a network that already knows pictures? On emoji of two styles.

    python -m benchmarks.transfer FOLDER    # two npm packages -> two folders of pictures
    python main.py --config=configs/emoji_transfer.py:pretrain --workdir=runs/emoji_pretrain
    python main.py --workdir=runs/emoji_pretrain --mode=export --config.export.format=adm
    python main.py --config=configs/emoji_transfer.py --mode=compare
    python main.py --config=configs/emoji_transfer.py:scratch --mode=compare

First a network of Google's pictures of all kinds; then it goes on with 50, 100 or 200 of Twitter's,
of animals, food, places and objects, by every method, three seeds each; and for comparison without
augmentation and by TADA from scratch, three times as long. v is predicted, since networks of eps
draw tinted images after so few steps (configs/emoji_tint.py).
"""

from configs import base

PRETRAINED = "runs/emoji_pretrain/export/adm_ema_step0003000/model.safetensors"


def get_config(variant="finetune"):
    start = base.choose(variant, {word: word for word in ("finetune", "scratch", "pretrain")})[0]
    c = base.get_config("none")
    c.data.name = "images"
    c.data.path = "runs/emoji/twitter"
    c.data.resolution = 16
    c.data.test_fraction = 0.5
    c.tada.band = "auto"
    c.diffusion.parameterisation = "v"
    c.model.channels = 32
    c.model.channel_mult = (1, 1, 2)
    c.model.attention_resolutions = (4,)
    c.model.head_channels = 32
    c.model.norm_groups = 8
    c.optimizer.learning_rate = 5e-4
    c.optimizer.warmup_steps = 50
    c.train.batch_size = 32
    c.train.total_steps = 300
    c.train.ema_decay = 0.99
    c.log.every = 100
    c.log.eval_every = 100
    c.log.sample_every = 300
    c.log.checkpoint_every = 300
    c.sample.steps = 20
    c.sample.count = 36
    c.evaluate.count = 400
    c.evaluate.fit_steps = 400
    c.compare.methods = ("none", "hflip", "constant", "ar", "tada")
    c.compare.train_sizes = (50, 100, 200)
    if start == "pretrain":
        c.method = "hflip"
        c.data.path = "runs/emoji/google"
        c.data.test_fraction = 0.1
        c.optimizer.learning_rate = 1e-3
        c.train.batch_size = 64
        c.train.total_steps = 3000
        c.train.ema_decay = 0.998
        c.log.eval_every = 500
        c.log.sample_every = 1000
        c.log.checkpoint_every = 1000
    elif start == "finetune":
        c.init.weights = PRETRAINED
    else:
        c.train.total_steps = 900
        c.compare.methods = ("none", "tada")
    return c
