"""What a training step of each method costs, relative to one without augmentation.

    python -m benchmarks.methods                                    # digits
    python -m benchmarks.methods --path=pictures.zip --channels=64  # images at their resolution

All methods take turns, one call each a round, so that whatever else the machine does hits them
alike; the ratio is the median over the rounds of step / step of `none` in the same round.
"""

import argparse
import platform
import time

import jax
import numpy as np

from configs import digits_tada, folder_tada
from tada_jax.methods.table import METHODS
from tada_jax.setup import build
from tada_jax.setup.plan import load_data
from tada_jax.system import backend
from tada_jax.training.step import empty_tally, init_state, make_steps, resident_batches


def make_call(config, dataset):
    """A function that does one training step and waits for it."""
    shape = dataset.train.images.shape[1:]
    parts, mesh = build.parts(config, shape), backend.data_mesh(config.train.batch_size)
    whole = backend.replicated(mesh)
    init = jax.jit(lambda: init_state(parts, config.seed), out_shardings=whole)
    images = jax.device_put(dataset.train.images, whole)
    order = build.order(config, None, len(images))
    fetch = resident_batches(config, order, backend.over_batch(mesh))
    steps = make_steps(parts, config, mesh, fetch)
    tally = jax.jit(lambda: empty_tally(parts), out_shardings=whole)
    carry = [init(), tally()]

    def call():
        carry[:] = steps(*carry, np.uint32(0), images, None, 1)
        jax.block_until_ready(carry)

    return call


def main():
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--path", help="folder, zip or array of images; digits by default")
    parser.add_argument("--channels", type=int, default=64, help="of the network, with --path")
    parser.add_argument("--batch", type=int, help="images a step")
    parser.add_argument("--rounds", type=int, default=40)
    args = parser.parse_args()
    backend.enable_compilation_cache()
    calls = {}
    for method in METHODS:
        config = (folder_tada if args.path else digits_tada).get_config(method)
        if args.path:
            config.data.path, config.model.channels = args.path, args.channels
        config.train.batch_size = args.batch or config.train.batch_size
        dataset = load_data(config)
        calls[method] = make_call(config, dataset)
        calls[method]()
    seconds = {method: [] for method in calls}
    for _ in range(args.rounds):
        for method, call in calls.items():
            start = time.perf_counter()
            call()
            seconds[method].append(time.perf_counter() - start)
    h, w, c = dataset.train.images.shape[1:]
    print(
        f"{h}x{w}x{c}, batch {config.train.batch_size}, {args.rounds} rounds, "
        f"{jax.device_count()} x {jax.devices()[0].device_kind}, {platform.machine()}"
    )
    print("| method | ms a step, median | relative to `none`, median [quartiles] |\n|---|---|---|")
    for method, own in seconds.items():
        ratio = np.array(own) / np.array(seconds["none"])
        low, middle, high = np.quantile(ratio, (0.25, 0.5, 0.75))
        print(
            f"| `{method}` | {1000 * np.median(own):.1f} | {middle:.2f} [{low:.2f}, {high:.2f}] |"
        )


if __name__ == "__main__":
    main()
