"""What is done with runs: samples to files, evaluations, comparisons, analyses.

One file computes, another says it in words, a third draws it.
"""
