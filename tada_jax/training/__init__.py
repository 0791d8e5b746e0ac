"""A run: the objective and a step of it, the loop around it, what it saves and how it goes on.

`step.py` is the mathematics, `loop.py` the order of events, the others what happens in between.
"""
