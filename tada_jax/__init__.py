"""TADA-JAX: diffusion models of small image sets, with timestep-aware data augmentation.

The method alone, for another JAX project: `tada_jax.tada.strength`, `tada_jax.augment.augment`.
"""
