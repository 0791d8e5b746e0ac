"""What samples are worth: quality, memorisation and leakage, as pure functions.

    quality.py       Frechet distance, KID, precision and recall, density and coverage, of features
    wasserstein.py   sliced Wasserstein distance of Laplacian patches, of images; no weights needed
    memorisation.py  is the model copying its training images?
    leakage.py       does it draw augmented images?
    features.py      extractors of features;  classifier.py, inception.py: the networks
    intervals.py     what is uncertain
    neither.py       bad images for the leak classifier
    neighbours.py    exact distances, in blocks

Everything but the networks is NumPy in float64: the numbers are what is sold here, and on a CPU
they take seconds (`benchmarks/metrics.py`).
"""
