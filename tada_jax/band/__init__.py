"""The sensitive band: how far augmented and plain images differ at each noise level.

Computed from images alone, without training.
"""
