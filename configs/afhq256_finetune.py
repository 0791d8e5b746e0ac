r"""The paper's transfer experiment: from faces of people to faces of animals, 256x256 pixels.

    python main.py --config=configs/afhq256_finetune.py --workdir=runs/afhq-cat \
        --config.data.path=afhq/train/cat --config.init.workdir=runs/ffhq256_tada

Starts from the averaged parameters of another run (config.init.use_ema=False: the raw ones;
config.init.checkpoint=best or a step), whose network must have the same shapes, with a fresh
optimiser and average. Once the first checkpoint is there, the other run is no longer needed.

Data: AFHQv2, about 5,000 images each of cat, dog and wild, 512 pixels; one kind at a time. The page
of its authors, github.com/clovaai/stargan-v2, says where they lie; the licence is CC BY-NC 4.0.

Expected, FID as read from the paper: cat 16.76 (AR 17.30), dog 32.03 (35.07), wild 12.17 (13.77).

Caveat: one seed each, taken from a reading of the paper and not reproduced here; for orientation,
never as a gate. The number of iterations is not known; the one below is ours.
"""

from configs import ffhq256_tada


def get_config(variant=""):
    c = ffhq256_tada.get_config(variant)
    c.init.workdir = "runs/ffhq256_tada"
    c.train.total_steps = 100_000
    c.log.eval_every = 5000
    c.log.sample_every = 5000
    c.log.checkpoint_every = 5000
    return c
