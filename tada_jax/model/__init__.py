"""The network, the noise it is trained on, and the solvers that draw images from it.

Arrays in, arrays out: no configuration, no files.
"""
