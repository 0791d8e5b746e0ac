"""A program that is compiled by a thread of its own, while its arguments are still being made."""

import os
import sys
import threading

NAME = "compile ahead"  # of the thread


class Ahead:
    """Traces a jitted function for a call that is to come, and has it compiled meanwhile.

    Only compiling, which needs no Python, is left to the thread. JAX keeps what was compiled: the
    call finds it if its arguments are as was said, and compiles anew if they are not. What goes
    wrong while compiling goes wrong in the call again, where it is seen to.

    Args:
      function: of `jax.jit`.
      arguments: of the call: values, or a `jax.ShapeDtypeStruct` with a sharding for an array.
    """

    def __init__(self, function, *arguments):
        lowered = function.lower(*arguments)
        self._thread = threading.Thread(target=self._compile, args=(lowered,), name=NAME)
        self._thread.start()

    @staticmethod
    def _compile(lowered):
        try:
            lowered.compile()
        except Exception:
            return

    def wait(self):
        """Returns when the function is compiled."""
        self._thread.join()


def leave(code):
    """Ends the process, without waiting for what is still being compiled and nobody needs.

    A compilation cannot be stopped, and Python would wait for its thread: minutes, for a large
    network. What was written to open files must have been flushed.
    """
    if any(thread.name == NAME for thread in threading.enumerate()):
        os._exit(code)
    sys.exit(code)
