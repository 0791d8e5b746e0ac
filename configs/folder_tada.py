"""TADA on a folder or zip of your own images; sub-folders are classes.

    python main.py --config=configs/folder_tada.py --config.data.path=pictures --dry_run
    python main.py --config=configs/folder_tada.py --config.data.path=pictures
    python main.py --config=configs/folder_tada.py:hflip --config.data.path=pictures.zip

Also an .npz, .npy, .h5 or .mat file of images [N,H,W,C]. Resolution, channels and classes are those
of the data; set config.data.resolution (64 is a good start), config.data.channels or
config.model.class_conditional=True for others. Look at the report of --dry_run first, and at
strength.png in the run's folder: augmentation must not show what your images never show. If they
must not be mirrored (text, hands, digits), set config.augment.xflip_p=0.

Cost: a network of 17M parameters; at 64 pixels for a GPU. Give every data set a --workdir of its
own. The band is the paper's for 64-pixel faces, calibrated to your resolution.
"""

from configs import base


def get_config(variant=""):
    method, formulation = base.choose(variant, base.METHODS, base.FORMULATIONS)
    c = base.get_config(method)
    c.data.name = "images"
    c.model.channels = 64
    c.train.batch_size = 64
    c.train.total_steps = 100_000
    c.train.ema_decay = 0.9995
    c.log.metrics_every = 5000
    return base.formulate(c, formulation, edm_steps=40)
