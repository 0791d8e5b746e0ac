"""What is done to a training example, a file a method.

`base.py` says what a method is, `table.py` which there are.
"""
