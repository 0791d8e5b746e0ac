"""Does augmentation leak, does the model copy, and is TADA better? On digits, offline.

    python main.py --config=configs/digits_compare.py --mode=compare

Eighteen runs of configs/digits_tada.py: no augmentation, constant strength 1, and TADA, on 200 and
1,000 digits, three seeds each; 719 digits are held out. README.md has the result, and its cost.
"""

from configs import digits_tada


def get_config(variant=""):
    c = digits_tada.get_config(variant)
    c.data.test_fraction = 0.4
    c.compare.methods = ("none", "constant", "tada")
    c.compare.train_sizes = (200, 1000)
    c.compare.seeds = (0, 1, 2)
    c.log.eval_every = 250
    c.log.metrics_every = 500
    return c
