"""TADA inside somebody else's train loop: two imports, two lines.

    PYTHONPATH=. python examples/own_loop.py

The network, the optimiser and the noise levels are this file's own: a few convolutions, continuous
time, v-prediction. All that TADA needs to know is the log SNR that was drawn.
"""

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from sklearn.datasets import load_digits

from tada_jax.augment import Policy, augment_batch
from tada_jax.tada import strength

POLICY = Policy(ops=("rotate_frac", "scale", "translate_frac"), p=0.8, max_ops=2, xflip_p=0.0)


class Network(nn.Module):
    @nn.compact
    def __call__(self, z, logsnr):  # z [B,8,8,1], logsnr [B]
        level = nn.Dense(64)(jnp.sin(logsnr[:, None] * jnp.geomspace(0.05, 3.0, 16)))
        h = nn.Conv(64, (3, 3))(z)
        for _ in range(3):
            h = h + nn.Conv(64, (3, 3))(nn.silu(nn.GroupNorm(8)(h) + level[:, None, None]))
        return nn.Conv(1, (3, 3))(nn.silu(h))


def loss_fn(params, rng, x0):
    rng_t, rng_aug, rng_eps = jax.random.split(rng, 3)
    logsnr = jax.random.uniform(rng_t, x0.shape[:1], minval=-10.0, maxval=10.0)  # [B]
    w = strength(logsnr, r_rough=-4.5, r_fine=3.0, calibration="none")  # TADA: how much, [B]
    x0 = augment_batch(rng_aug, x0, w, POLICY)  # TADA: each image by its own strength
    alpha, sigma = (jnp.sqrt(jax.nn.sigmoid(s * logsnr))[:, None, None, None] for s in (1, -1))
    eps = jax.random.normal(rng_eps, x0.shape)
    v = alpha * eps - sigma * x0
    return jnp.mean((Network().apply(params, alpha * x0 + sigma * eps, logsnr) - v) ** 2)


def main(steps=300, batch_size=64):
    images = jnp.asarray(load_digits().images[..., None] / 8.0 - 1.0, jnp.float32)
    params = Network().init(jax.random.key(0), images[:1], jnp.zeros(1))
    optimizer = optax.adam(1e-3)

    @jax.jit
    def step(params, opt_state, rng):
        rng_batch, rng_loss = jax.random.split(rng)
        batch = jax.random.choice(rng_batch, images, (batch_size,))
        loss, grads = jax.value_and_grad(loss_fn)(params, rng_loss, batch)
        updates, opt_state = optimizer.update(grads, opt_state)
        return optax.apply_updates(params, updates), opt_state, loss

    opt_state, losses = optimizer.init(params), []
    for i in range(steps):
        params, opt_state, loss = step(params, opt_state, jax.random.fold_in(jax.random.key(1), i))
        losses.append(float(loss))
        if i % 50 == 0 or i == steps - 1:
            print(f"step {i}  loss {loss:.3f}")
    return losses


if __name__ == "__main__":
    main()
