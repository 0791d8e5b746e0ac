"""From a configuration to a run that could begin: what fields may be, and what is made of them.

`plan.py` is where training and evaluation start from.
"""
