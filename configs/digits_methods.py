"""Every method on 200 digits, offline: which leaks, which copies, which draws well?

    python main.py --config=configs/digits_methods.py --mode=compare

Ten methods, three seeds; 719 digits are held out. docs/methods.md has the result.
"""

from configs import base, digits_compare


def get_config():
    c = digits_compare.get_config()
    c.log.metrics_every = 0
    c.compare.methods = tuple(sorted(base.METHODS))
    c.compare.train_sizes = (200,)
    return c
