"""Attention, forward and backward, at the shapes of the networks: by XLA, and by cuDNN on a GPU.

    python -m benchmarks.attention [--batch=32] [--dtype=bfloat16]

The network calls `jax.nn.dot_product_attention` and leaves the choice to it: this says what the
choice costs.
"""

import argparse

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import timing

# (pixels of a side, channels of the level): of ADM's networks at 64 and 256 pixels, and of digits.
LEVELS = ((32, 384), (16, 576), (8, 768), (4, 32))
HEAD = 64  # channels; fewer where a level has fewer


def implementations():
    """Names that `jax.nn.dot_product_attention` takes here."""
    return ("xla", "cudnn") if jax.default_backend() == "gpu" else ("xla",)


def step(name, shape, dtype):
    """A call that computes attention and its gradients, and returns when that is done.

    Args:
      name: of `implementations`.
      shape: tokens [B,T,heads,d].
      dtype: of q, k, v.

    Raises:
      Exception: whatever JAX raises where the implementation does not take the shape.
    """
    keys = jax.random.split(jax.random.key(0), 3)
    inputs = tuple(jax.random.normal(key, shape, jnp.dtype(dtype)) for key in keys)

    @jax.jit
    def gradients(q, k, v):
        def total(q, k, v):
            found = jax.nn.dot_product_attention(q, k, v, implementation=name)
            return jnp.square(found.astype(jnp.float32)).sum()

        return jax.grad(total, argnums=(0, 1, 2))(q, k, v)

    compiled = gradients.lower(*inputs).compile()
    return lambda: jax.block_until_ready(compiled(*inputs))


def main():
    """Times them by turns and prints."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--repetitions", type=int, default=9)
    args = parser.parse_args()
    print(timing.machine())
    for side, channels in LEVELS:
        head = min(HEAD, channels)
        shape = (args.batch, side * side, channels // head, head)
        actions = {}
        for name in implementations():
            try:
                actions[name] = step(name, shape, args.dtype)
            except Exception as e:  # of the library, which says why it does not take a shape
                print(f"{name} does not take {shape}: {' '.join(str(e).split())[:200]}")
        seconds = timing.interleaved(actions, args.repetitions, warm_up=2)
        # Two products forward and four backward, of 2 T^2 d operations a head each; what is
        # computed a second time does not count.
        work = 6 * 2 * int(np.prod(shape)) * side * side
        for name, of in seconds.items():
            figures = timing.figures("attention", name, of, args.batch, shape=shape)
            figures |= {"dtype": args.dtype, "flop_per_s": work / figures["median_s"]}
            if name != "xla" and "xla" in seconds:
                figures["times_xla"] = timing.ratio(seconds, "xla", name)
            text = (
                f"{side}x{side}, {channels} channels, {name}: {figures['median_s'] * 1e3:,.2f} ms, "
                f"{figures['flop_per_s'] / 1e9:,.0f} GFLOP/s"
            )
            timing.show(text, **figures)


if __name__ == "__main__":
    main()
