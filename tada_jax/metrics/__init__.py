"""What samples are worth: quality, memorisation and leakage, as pure functions.

    frechet.py, kid.py, precision_recall.py   quality, of features
    wasserstein.py   sliced Wasserstein distance of Laplacian patches, of images; no weights needed
    memorisation.py  is the model copying its training images?
    leakage.py       does it draw augmented images?
    features.py      extractors of features;  classifier.py, inception.py: the networks
    intervals.py     what is uncertain
    bad_images.py    bad images for the leak classifier
    neighbours.py    exact distances, in blocks
    scores.py        every measure of samples;  measures.py: their meanings;  judge.py: asks them

Everything but the networks is NumPy in float64: the numbers are what is sold here, and on a CPU
they take seconds (`benchmarks/metrics.py`).
"""
