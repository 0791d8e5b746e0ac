"""The README's program runs as it stands."""

import re
import runpy

import jax
import jax.numpy as jnp

from tests import tiny


def test_the_python_example_runs():
    (program,) = re.findall(r"```python\n(.*?)```", (tiny.ROOT / "README.md").read_text(), re.S)
    names = {}
    exec(program, names)
    x = jnp.ones((4, 8, 8, 3))
    z, t, eps = names["noisy_batch"](jax.random.key(0), x)
    assert z.shape == eps.shape == x.shape and t.shape == (4,)
    assert float(jnp.abs(z - eps).max()) > 0.1


def test_every_file_that_the_documents_name_exists():
    for document in (tiny.ROOT / "README.md", *(tiny.ROOT / "docs").glob("*.md")):
        text = document.read_text()
        for path in re.findall(r"\]\(([^)#:]+)\)", text):
            assert (document.parent / path).exists(), path
        for path in re.findall(
            r"\b(?:configs|tada_jax|benchmarks|examples|tests)/[\w/]+\.py\b", text
        ):
            made_up = path == "tada_jax/methods/grey.py"  # tests/methods/test_methods.py runs it
            assert (tiny.ROOT / path).exists() != made_up, path


def test_the_example_of_a_loop_of_ones_own_learns():
    program = runpy.run_path(str(tiny.ROOT / "examples" / "own_loop.py"))
    losses = program["main"](steps=60, batch_size=32)
    assert len(losses) == 60
    assert sum(losses[-10:]) < 0.8 * sum(losses[:10])
