"""What is compiled by a thread of its own."""

import subprocess
import sys

from tada_jax.system.ahead import Ahead
from tests import tiny


def test_what_fails_to_compile_is_left_to_the_call():
    tried = []

    class Fails:
        def lower(self, *arguments):
            tried.append(arguments)
            return self

        def compile(self):
            tried.append("compiled")
            raise MemoryError

    Ahead(Fails(), 1).wait()
    assert tried == [(1,), "compiled"]


_LEAVES = """
import time
from tada_jax.system import ahead, logs

class Slow:
    def lower(self, *arguments):
        return self

    def compile(self):
        time.sleep(600)

ahead.Ahead(Slow())
logs.say("error: the disk is full")
ahead.leave(1)
"""


def test_a_process_that_fails_meanwhile_does_not_wait():
    done = subprocess.run(
        [sys.executable, "-c", _LEAVES], cwd=tiny.ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 1 and done.stderr == "error: the disk is full\n"
