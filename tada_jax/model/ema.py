"""Post-hoc EMA: parameter averages of any length, at any step, from a few that were stored.

A power-function average (Karras et al. 2024, "EDM2", section 3) weighs the parameters at step tau,
seen from step t, by (gamma + 1) tau^gamma / t^(gamma + 1): its length grows with training, and
the random beginning fades. Two of them are tracked and stored now and then; any other is close to
a linear combination of all that are stored, found by least squares (appendix C there).

`gamma` is the exponent; the same said by `width`, the standard deviation of the weights relative
to the training time, is between 0 (no averaging) and 1/sqrt(12), all steps alike.
"""

import jax
import jax.numpy as jnp
import numpy as np

LONGEST = 12.0**-0.5  # width at gamma = 0


def exponent(width):
    """gamma of a relative width.

    Raises:
      ValueError: unless 0 < width < 1/sqrt(12).
    """
    if not 0 < width < LONGEST:
        raise ValueError(f"width={width} must be above 0 and below {LONGEST:.3f}")
    square = width**-2.0
    roots = np.roots([1.0, 7.0, 16.0 - square, 12.0 - square])
    return float(roots[np.abs(roots.imag) < 1e-9].real.max())


def width(gamma):
    """Relative width of an exponent: ((gamma + 1) / ((gamma + 2)^2 (gamma + 3)))^(1/2)."""
    return float(np.sqrt((gamma + 1.0) / ((gamma + 2.0) ** 2 * (gamma + 3.0))))


def update(average, params, step, gamma):
    """The average after one more step.

    Args:
      average: pytree, after `step` steps.
      params: pytree, the parameters after step + 1 steps.
      step: int32 [], may be traced.
      gamma: exponent.

    Returns:
      beta average + (1 - beta) params, beta = (1 - 1/t)^(gamma + 1), t = step + 1.
    """
    # 1 - beta itself: after a million steps float32 would keep two of its digits.
    share = -jnp.expm1((gamma + 1.0) * jnp.log1p(-1.0 / (step + 1.0)))
    return jax.tree.map(lambda a, p: a + share * (p - a), average, params)


def _overlap(t, gamma, t2, gamma2):
    """Inner products of two profiles, each on [0, t]; arrays broadcast."""
    swap = t > t2
    early, late = np.where(swap, t2, t), np.where(swap, t, t2)
    gamma_late = np.where(swap, gamma, gamma2)
    return (
        (gamma + 1.0)
        * (gamma2 + 1.0)
        / (gamma + gamma2 + 1.0)
        * ((early / late) ** gamma_late / late)
    )


def coefficients(steps, gammas, step, gamma):
    """How stored averages combine to another one.

    Args:
      steps, gammas: of the stored averages, [n] each.
      step, gamma: of the one that is wanted.

    Returns:
      (float64 [n], error): the combination whose weights over training time are nearest in L2,
      and how far off they are, as a share of the wanted weights' norm: 0 exact, 1 useless.
    """
    t, g = np.asarray(steps, np.float64), np.asarray(gammas, np.float64)
    gram = _overlap(t[:, None], g[:, None], t[None], g[None])
    wanted = _overlap(t, g, np.float64(step), np.float64(gamma))
    scale = 1.0 / np.sqrt(np.diag(gram))  # profiles of length 1: early ones are tall and narrow
    solution = np.linalg.lstsq(gram * scale * scale[:, None], wanted * scale, rcond=1e-12)[0]
    factors = solution * scale
    norm = _overlap(np.float64(step), np.float64(gamma), np.float64(step), np.float64(gamma))
    square = norm - 2.0 * factors @ wanted + factors @ gram @ factors
    return factors, float(np.sqrt(max(square, 0.0) / norm))


def combine(trees, factors):
    """sum_i factors[i] trees[i], taking one tree after the other from an iterator."""
    total = None
    for tree, factor in zip(trees, factors):
        term = jax.tree.map(lambda a: jnp.float32(factor) * a, tree)  # noqa: B023
        total = term if total is None else jax.tree.map(jnp.add, total, term)
    return total
