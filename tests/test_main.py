"""main.py as a user types it, in processes of its own."""

import os
import pathlib
import re
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from tests import tiny


def main(*args, **env):
    """Runs main.py; returns (exit code, stdout, stderr)."""
    flags = os.environ["XLA_FLAGS"].replace("device_count=8", "device_count=1")
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"} | env
    done = subprocess.run(
        [sys.executable, str(tiny.ROOT / "main.py"), *map(str, args)],
        capture_output=True,
        text=True,
        cwd=tiny.ROOT,
        env=environment,
        timeout=300,
    )
    return done.returncode, done.stdout, done.stderr


def test_trains_and_samples(forked, tmp_path):
    args = ("--config=configs/digits_tada.py:constant", f"--workdir={tmp_path}", *tiny.FLAGS)
    code, out, err = main(*args)
    assert code == 0, err
    assert str(tmp_path) in out
    code, out, err = main("--mode=sample", "--config.sample.seed=5", *args)
    assert code == 0, err
    folder, grid, npz = out.split()
    with Image.open(grid) as picture:
        assert picture.size == (2 * 48 + 6, 2 * 48 + 6)  # 2 x 2 images and the gaps, enlarged 6x
    assert np.load(npz)["arr_0"].shape == (4, 8, 8, 1)
    assert len(list(pathlib.Path(folder).glob("00000?.png"))) == 4
    again = ("--config.sample.seed=5", "--mode=sample", "--workdir", tmp_path)  # and no --config
    code, out, err = forked(*again, apart=True)
    assert code == 0, err
    assert out.split() == [folder, grid, npz] and "4 of 4 images are there already" in err
    code, out, err = forked("--dry_run", *args, apart=True)
    assert code == 0, err
    assert "train.batch_size = 8" in out and "GiB a device" in out


def test_a_folder_of_grey_pictures_that_are_not_square(forked, tmp_path):
    rng = np.random.default_rng(0)
    for i in range(24):
        folder = tmp_path / "pictures" / ("tall" if i % 2 else "dotted")
        folder.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (24, 16), np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    args = (
        "--config=configs/folder_tada.py",
        f"--config.data.path={tmp_path / 'pictures'}",
        "--config.data.fit=keep",
        "--config.data.order=balanced",
        "--config.model.class_conditional=True",
        f"--workdir={tmp_path / 'run'}",
        *tiny.FLAGS,
    )
    cache = {"TADA_JAX_CACHE": str(tmp_path / "cache")}
    code, said = forked(*args, small=True, **cache)
    assert code == 0, said
    assert "22 training, 2 held out, 24x16x1" in said
    assert "0: 'dotted' (11), 1: 'tall' (11)" in said
    code, said = forked("--mode=sample", *args, small=True, **cache)
    assert code == 0, said
    (path,) = (tmp_path / "run" / "samples").glob("*/000003.png")
    with Image.open(path) as picture:
        assert picture.size == (16, 24) and picture.mode == "L"


def test_trains_on_a_cifar10_archive_in_the_published_binary_layout(forked, tmp_path):
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name in (*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"):
        records = rng.integers(0, 256, (4, 3073), np.uint8)
        records[:, 0] %= 10
        (folder / name).write_bytes(records.tobytes())
    code, said = forked(
        "--config=configs/cifar10_tada.py",
        f"--config.data.path={tmp_path}",
        f"--workdir={tmp_path / 'run'}",
        "--config.model.num_res_blocks=1",
        *tiny.FLAGS,
        small=True,
    )
    assert code == 0, said
    assert "20 training, 4 held out, 32x32x3" in said


def test_cifar10_without_network_or_archive_fails_soon_and_says_what_to_do(tmp_path):
    started = time.monotonic()
    code, _, err = main(
        "--config=configs/cifar10_tada.py",
        f"--workdir={tmp_path / 'run'}",
        HOME=str(tmp_path),
        TADA_JAX_CACHE=str(tmp_path / "cache"),
        TFDS_DATA_DIR=str(tmp_path / "tfds"),
        https_proxy="http://127.0.0.1:9",  # nobody listens there
    )
    assert code != 0
    line = err.strip().splitlines()[-1]
    assert "--config.data.path" in line and "digits" in line
    assert "Traceback" not in err
    assert time.monotonic() - started < 20  # the import of jax included
    assert not (tmp_path / "run").exists()


DIGITS = "--config=configs/digits_tada.py"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((), "--config="),
        (("--config=configs/nowhere.py",), "nowhere.py"),
        (("--config=configs/digits_tada.py:mixup",), "mixup"),
        ((DIGITS, "--config.train.batchsize=4"), "batch_size"),
        ((DIGITS, "--config.trian.batch_size=4"), "trian"),
        ((DIGITS, "--config.train.batch_size=many"), "many"),
        ((DIGITS, "train.batch_size=4"), "not a flag"),
        ((DIGITS, "--train.batch_size=4"), "train.batch_size"),
        ((DIGITS, "--mode=fly"), "fly"),
        ((DIGITS, "--workdir=/proc/none"), "--workdir"),
        ((DIGITS, "--workdir"), "Missing value for flag --workdir"),
        ((DIGITS, "--mode=sample", "--workdir=/nonexistent"), "train first"),
        ((DIGITS, "--config.data.path=/tmp"), "data.path"),
    ],
)
def test_a_users_mistake_is_one_line(args, message, forked, tmp_path):
    elsewhere = (f"--workdir={tmp_path / 'run'}",) if args else ()
    code, said = forked(*elsewhere, *args)
    assert code != 0 and not (tmp_path / "run").exists()
    lines = [line for line in said.splitlines() if not re.match(r"[WI]\d{4}", line)]
    assert len(lines) == 1, said
    assert lines[0].startswith("error: ") and message in lines[0]


def test_a_platform_that_is_not_installed_is_one_line(tmp_path):
    args = ("--config=configs/digits_tada.py", f"--workdir={tmp_path / 'run'}", *tiny.FLAGS)
    code, _, err = main(*args, JAX_PLATFORMS="tpu")
    (line,) = (line for line in err.splitlines() if line.startswith("error: "))
    assert code and "JAX_PLATFORMS=tpu" in line and "unset JAX_PLATFORMS" in line
    assert "Traceback" not in err and not (tmp_path / "run").exists()


SMALL_CODE = "--xla_backend_extra_options=xla_cpu_optimize_for_size"


@pytest.mark.parametrize(
    ("batch", "environment", "devices", "options"),
    [
        (8, {}, 2, "xla_cpu_disable_loop_unrolling"),
        (7, {}, 1, "xla_cpu_disable_loop_unrolling"),  # does not divide
        (  # the user's choices
            8,
            {"XLA_FLAGS": f"--xla_force_host_platform_device_count=3 {SMALL_CODE}"},
            3,
            "xla_cpu_optimize_for_size",
        ),
        (8, {"JAX_COORDINATOR_ADDRESS": "localhost:1"}, 1, ""),  # one of several processes
    ],
)
def test_devices_on_a_cpu(batch, environment, devices, options):
    program = (
        "from tada_jax.system import backend; import jax, os;"
        "os.sched_getaffinity = lambda _: {0, 1};"
        f"backend.use_cpu_well({batch}, pixels=64, channels=8);"
        "print(jax.device_count(), os.environ.get('XLA_FLAGS', '').rpartition('options=')[2])"
    )
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("XLA_", "JAX_"))}
    found = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        cwd=tiny.ROOT,
        env=clean | {"JAX_PLATFORMS": "cpu"} | environment,
        timeout=100,
        check=True,
    )
    assert found.stdout.strip() == f"{devices} {options}".strip()
