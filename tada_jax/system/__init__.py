"""What any program of this kind needs: devices, files, consoles, figures, errors.

It knows nothing of images, networks or diffusion.
"""
