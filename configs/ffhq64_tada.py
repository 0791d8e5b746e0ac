"""The paper's main experiment: faces of 64x64 pixels, from 1,000 to 30,000 of them.

    python main.py --config=configs/ffhq64_tada.py --config.data.path=thumbnails128x128
    python main.py --config=configs/ffhq64_tada.py:1k-hflip --config.data.path=...
    python main.py --config=configs/ffhq64_tada.py:30k-17m --config.data.path=...

A variant names the number of images (5k, 1k, 2k, 10k, 30k), the network (68m, 17m, 95m: 68,159,622,
17,060,934 and 95,091,078 parameters), the method (tada, constant, hflip, none, ar, ...) and the
formulation (iddpm, edm, flow), in any order; the first of each is the default.

Data: FFHQ, 70,000 faces, as a folder or zip; the 128-pixel thumbnails (2 GB) are enough. Its
authors' page, github.com/NVlabs/ffhq-dataset, says where they lie; the licence is CC BY-NC-SA 4.0.
A tenth is held out and never trained on. Which images the paper took is not known, so a subset here
is a random one, drawn by config.seed, the smaller in the larger.

Expected, FID/KID x 1e3 on 10,000 samples at the best iteration, as read from the paper:

    images   h-flip        AR            TADA
    1k       17.46/11.18   22.98/17.11   14.37/8.91
    2k       36.22/30.10   16.33/9.58    18.83/14.39
    5k       14.84/9.30    12.95/8.45    12.92/7.74
    10k      13.31/9.87    11.34/7.79    12.19/8.06
    30k      12.00/7.79    10.82/7.56    10.39/6.80

Caveat: one seed each, taken from a reading of the paper and not reproduced here; for orientation,
never as a gate. The paper gives neither learning rate, batch size, dropout nor iterations: those
below are ours. Its best figures take 1000 sampling steps.
"""

from configs import base

IMAGES = {"5k": 5_000, "1k": 1_000, "2k": 2_000, "10k": 10_000, "30k": 30_000}
NETWORKS = {"68m": (128, 1), "17m": (64, 1), "95m": (128, 2)}  # channels, blocks a level


def get_config(variant=""):
    images, network, method, formulation = base.choose(
        variant, IMAGES, NETWORKS, base.METHODS, base.FORMULATIONS
    )
    c = base.get_config(method)
    c.data.name = "images"
    c.data.train_size = images
    c.data.resolution = 64
    c.data.channels = 3
    c.schedule.name = "linear"
    c.model.channels, c.model.num_res_blocks = network
    c.train.batch_size = 128
    c.train.total_steps = 200_000
    c.sample.sampler = "ddpm"
    c.sample.steps = 1000
    return base.formulate(c, formulation, edm_steps=40)
