"""The package as somebody else's program installs it: a wheel, and no checkout around it."""

import os
import re
import shutil
import subprocess
import sys

import pytest

import tada_jax
from tests import tiny

PARTS = (
    "tada_jax",
    "pyproject.toml",
    "README.md",
    "LICENSE",
    "requirements.txt",
    "requirements-formats.txt",
)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder of packages with an installed wheel of this one."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in PARTS:
        copy = shutil.copytree if (tiny.ROOT / name).is_dir() else shutil.copy
        copy(tiny.ROOT / name, folder / name)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    wheel = ["wheel", "--no-build-isolation", "--no-deps", "--wheel-dir", folder / "built", folder]
    subprocess.run([*pip, *wheel], check=True)
    (built,) = (folder / "built").glob("tada_jax-*.whl")
    install = ["install", "--no-deps", "--no-index", "--target", folder / "site", built]
    subprocess.run([*pip, *install], check=True)
    return folder / "site"


def run(program, site, folder):
    environment = os.environ | {"PYTHONPATH": str(site)}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_program_of_the_readme_runs_in_an_empty_folder(site, tmp_path):
    (program,) = re.findall(r"```python\n(.*?)```", (tiny.ROOT / "README.md").read_text(), re.S)
    program += """
import tada_jax
z, t, eps = noisy_batch(jax.random.key(0), jnp.ones((4, 8, 8, 3)))
print(z.shape, tada_jax.__file__)
"""
    assert (
        run(program, site, tmp_path).split("\n")[0] == f"(4, 8, 8, 3) {site}/tada_jax/__init__.py"
    )


def test_the_public_names_are_there_and_are_what_they_say(site, tmp_path):
    program = """
import tada_jax
for name in tada_jax.__all__:
    thing = getattr(tada_jax, name)
    print(name, type(thing).__name__)
"""
    found = dict(line.split() for line in run(program, site, tmp_path).splitlines())
    assert found.keys() == set(tada_jax.__all__)
    assert (site / "tada_jax" / "study" / "comparison.html.j2").is_file()
    functions = ("strength", "augment", "augment_batch", "train", "sample", "evaluate", "load_run")
    assert {found[name] for name in functions} == {"function"}
    assert found["Policy"] == "type"


def test_who_wants_the_method_alone_loads_no_network(site, tmp_path):
    modules = run("import sys, tada_jax; print(*sys.modules)", site, tmp_path).split()
    assert "flax" not in modules and "orbax" not in modules and "tada_jax.augment" in modules
