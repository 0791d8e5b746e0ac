"""Weights of others and for others: files of PyTorch and safetensors, and whose names are whose.

Nothing here trains; what is read becomes parameters of a `model.unet.UNet`.
"""
