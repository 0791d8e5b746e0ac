"""A zoo of bad inputs: each ends in one line that names culprit and remedy, and spoils nothing.

Every case is `main.py` in a process of its own, of the fixture `forked`.
"""

import hashlib
import io
import pathlib
import re
import shutil
import struct
import zipfile
import zlib

import numpy as np
import pytest
from PIL import Image

from tests import tiny


@pytest.fixture
def refuse(forked, tmp_path):
    """refuse(message, *arguments): main.py fails with one line that matches; returns the line."""

    def refuse(message, *arguments, limits=(), small=False, **environment):
        workdir = next(
            (a.partition("=")[2] for a in arguments if a.startswith("--workdir=")),
            str(tmp_path / "no_run"),
        )
        before = contents(workdir)
        if not any(str(a).startswith("--workdir=") for a in arguments):
            arguments = (*arguments, f"--workdir={workdir}")
        environment = {"TADA_JAX_CACHE": str(tmp_path / "cache")} | environment
        code, output = forked(*arguments, limits=limits, small=small, **environment)
        assert code not in (0, 70), output
        assert "Traceback" not in output
        (line,) = (line for line in output.splitlines() if line.startswith("error: "))
        assert output.rstrip().endswith(line)
        assert re.search(message, line), line
        assert contents(workdir) == before
        return line

    return refuse


def contents(folder):
    """Every file of a folder with a hash of what it holds."""
    folder = pathlib.Path(folder)
    return {
        str(p.relative_to(folder)): hashlib.md5(p.read_bytes()).hexdigest()
        for p in folder.rglob("*")
        if p.is_file() and p.name != ".lock"
    }


# Images

FOLDER = "--config=configs/folder_tada.py"


def png(size=(12, 12), mode="RGB"):
    file = io.BytesIO()
    Image.new(mode, size, 120).save(file, "PNG")
    return file.getvalue()


def huge_png():
    """A header that promises 100,000 x 100,000 pixels."""
    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )


def float_tiff():
    file = io.BytesIO()
    Image.fromarray(np.full((12, 12), np.nan, np.float32)).save(file, "TIFF")
    return file.getvalue()


BAD_FILES = {
    "truncated.png": png((64, 64))[:80],
    "truncated.jpg": b"\xff\xd8\xff\xe0\x00\x10JFIF\x00",
    "empty.png": b"",
    "text.png": b"This is a poem, not an image.\n",
    "renamed.jpg": b"%PDF-1.4 a document that was renamed",
    "script.png": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n",
    "huge.png": huge_png(),
    "damaged.png": png((64, 64)).replace(b"IDAT", b"IDAU", 1),
    "damaged.gif": b"GIF89a\x10\x00\x10\x00",
    "measurement.tiff": float_tiff(),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_bad_image_is_named(name, refuse, tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in range(4):
        (folder / f"{i}.png").write_bytes(png())
    (folder / name).write_bytes(BAD_FILES[name])
    line = refuse(re.escape(name), FOLDER, f"--config.data.path={folder}")
    assert "data.unreadable" in line


def zipped(path, members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def encrypted(path):
    content = zipped(path, {"a.png": png()}).read_bytes()
    at = content.index(b"PK\x01\x02")
    path.write_bytes(content[:6] + b"\x01" + content[7 : at + 8] + b"\x01" + content[at + 9 :])


def bad_checksum(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.png", png())
    content = bytearray(path.read_bytes())
    content[60] ^= 255
    path.write_bytes(bytes(content))


ARCHIVES = {
    "escape": (lambda p: zipped(p, {"a.png": png(), "../b.png": png()}), r"\.\./b\.png"),
    "absolute": (lambda p: zipped(p, {"/etc/b.png": png()}), "/etc/b.png"),
    "truncated": (lambda p: p.write_bytes(zipped(p, {"a.png": png()}).read_bytes()[:60]), "zip"),
    "no zip": (lambda p: p.write_bytes(b"Rar!\x1a\x07\x00"), "zip"),
    "empty": (lambda p: zipped(p, {}), "no image"),
    "no images": (lambda p: zipped(p, {"readme.txt": b"hello"}), "no image"),
    "encrypted": (encrypted, "a.png"),
    "checksum": (bad_checksum, "a.png"),
}


@pytest.mark.parametrize("kind", ARCHIVES)
def test_a_bad_zip_is_named(kind, refuse, tmp_path):
    make, message = ARCHIVES[kind]
    make(tmp_path / "set.zip")
    line = refuse(message, FOLDER, f"--config.data.path={tmp_path / 'set.zip'}")
    assert "set.zip" in line


def save_npz(**arrays):
    return lambda path: np.savez(path, **arrays)


IMAGES = np.zeros((6, 8, 8, 3), np.uint8)
ARRAYS = {
    "floats": (save_npz(images=np.full(IMAGES.shape, np.nan)), "not finite"),
    "five channels": (save_npz(images=np.zeros((6, 8, 8, 5), np.uint8)), "channels|5"),
    "no images": (save_npz(labels=np.arange(6)), "images"),
    "labels": (save_npz(images=IMAGES, labels=np.arange(5)), "labels"),
    "negative labels": (save_npz(images=IMAGES, labels=np.arange(6) - 2), "labels"),
    "none": (save_npz(images=IMAGES[:0]), "set.npz"),
    "objects": (save_npz(images=np.array([{}, 1], object)), "set.npz"),
    "damaged": (lambda path: path.write_bytes(b"PK\x03\x04 nonsense"), "set.npz"),
}


@pytest.mark.parametrize("kind", ARRAYS)
def test_a_bad_array_is_named(kind, refuse, tmp_path):
    make, message = ARRAYS[kind]
    make(tmp_path / "set.npz")
    line = refuse(message, FOLDER, f"--config.data.path={tmp_path / 'set.npz'}")
    assert "set.npz" in line


# Paths and permissions


def one_image(folder, size=(12, 12)):
    folder.mkdir()
    for i in range(5):
        (folder / f"{i}.png").write_bytes(png(size))
    return f"--config.data.path={folder}"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "data.path is missing"),
        (("--config.data.path=",), "data.path is missing"),
        (("--config.data.path=/nowhere",), "/nowhere"),
        (("--config.data.path=/dev/null",), "/dev/null"),
        (("--config.data.path=/proc/self/mem",), "/proc/self/mem"),
        (("--config.data.name=tfds:nothing_like_it",), "nothing_like_it"),
        (("--config.data.name=tfds:",), "tfds"),
    ],
)
def test_data_that_are_not_there(arguments, message, refuse):
    refuse(message, FOLDER, *arguments)


def test_an_empty_folder(refuse, tmp_path):
    (tmp_path / "pictures").mkdir()
    refuse("pictures.*no image", FOLDER, f"--config.data.path={tmp_path / 'pictures'}")


def test_images_that_fit_no_network(refuse, tmp_path):
    line = refuse("multiples of 8", FOLDER, one_image(tmp_path / "pictures", (21, 21)))
    assert "data.resolution" in line


def test_a_cache_that_cannot_be_written(refuse, tmp_path):
    path = one_image(tmp_path / "pictures")
    refuse("cache /proc.*TADA_JAX_CACHE", FOLDER, path, TADA_JAX_CACHE="/proc/nowhere")


@pytest.mark.parametrize("workdir", ["/proc/run", "/dev/null/run", "/dev/null"])
def test_a_workdir_that_cannot_be_written(workdir, refuse):
    refuse(f"{workdir}.*--workdir", DIGITS, *tiny.FLAGS, f"--workdir={workdir}")


# Configurations and flags

DIGITS = "--config=configs/digits_tada.py"


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--config.data.fit=stretch", "data.fit='stretch'.*crop"),
        ("--config.data.unreadable=ignore", "data.unreadable"),
        ("--config.data.order=sorted", "data.order"),
        ("--config.data.device_gib=-1", "device_gib"),
        ("--config.data.channels=2", "channels"),
        ("--config.data.resolution=0", "resolution"),
        ("--config.data.resolution=100000", "data.resolution=100000.*smaller"),
        ("--config.augment.magnitude.rotate=2", "unknown field.*rotate"),
        ("--config.sample.num_steps=3", "num_steps': perhaps --config.sample.steps$"),
        ("--config.train.steps=3", "perhaps .*train.steps_per_call or .*train.total_steps$"),
        ("--config.steps.train=3", "unknown field of the configuration: .steps.$"),
        ("--config.ema_decay=0.5", "ema_decay': perhaps --config.train.ema_decay$"),
        (
            "--config.model.head_channels=3",
            "head_channels=3; change channels=8, or set head_channels=2$",
        ),
        ("--config.ema.widths=('a',)", "ema.widths: 'a'"),
        ("--config.ema.widths=(0.05,0.1,0.05)", "ema.widths=.0.05, 0.1, 0.05. names a width twice"),
        ("--config=configs/cifar10_tada.py", "name one configuration file"),
        ("--config.data.background=(0,0)", "background"),
        ("--config.data.background=(0,0,300)", "background"),
        ("--config.train.nonfinite=ignore", "nonfinite"),
        ("--config.log.best_metric=fid", "best_metric.*test_mse"),
        ("--config.sample.checkpoint=first", "sample.checkpoint"),
        ("--config.init.workdir=/nowhere", "init.workdir=/nowhere: /nowhere holds no run"),
        ("--config.train.batch_size=0", "batch_size=0"),
        ("--config.train.total_steps=long", "total_steps=long.*nor auto"),
        ("--config.train.ema_decay=1.5", "ema_decay=1.5 .*at least 0 and below 1$"),
        ("--config.seed=-1", "seed"),
        ("--config.method=adaa", "method='adaa'.*scoreaug"),
        ("--config.schedule.name=karras", "schedule.name='karras'.*edm"),
        ("--config.schedule.name=edm", "learned_range.*needs timesteps.*fixed_small"),
        ("--config.diffusion.parameterisation=noise", "parameterisation='noise'.*flow"),
        ("--config.sample.guidance=2", "sample.guidance=2.*class_conditional"),
        ("--config.sample.label=3", "sample.label=3.*no classes"),
        ("--config.train.class_dropout=1.5", "class_dropout"),
        ("--config.train.batch_size", "batch_size"),
        ("--process_id=1", "coordinator"),
        ("--coordinator=host:1", "num_processes"),
        ("--mode=dream", "dream"),
        ("--steps=5", "steps"),
    ],
)
def test_a_bad_field_or_flag(argument, message, refuse):
    refuse(message, DIGITS, *tiny.FLAGS, argument)


MINE = """from configs import digits_tada

def get_config():
    c = digits_tada.get_config()
"""


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("def get_config(:\n", "SyntaxError"),
        ("import nowhere_to_be_found\n", "nowhere_to_be_found"),
        ("x = 1\n", "get_config"),
        ("def get_config():\n    return None\n", "configuration"),
        ("def get_config():\n    return {'train': 3}\n", "configuration"),
        (
            f"{MINE}    c.train.batchsize = 64\n    return c\n",
            "field of the configuration: .batchsize. Did you mean .batch_size. instead",
        ),
        ("def get_config():\n    return {}['path']\n", "field of the configuration: path$"),
        (f"{MINE}    c.lenght = 9\n    return c\n", "field of the configuration: .lenght.$"),
        (f"{MINE}    c.trian.batch_size = 64\n    return c\n", ".trian.*mean .train. instead"),
    ],
)
def test_a_bad_configuration_file(content, message, refuse, tmp_path):
    (tmp_path / "mine.py").write_text(content)
    refuse(message, f"--config={tmp_path / 'mine.py'}", "--config.data.path=/x")


def test_a_file_that_is_not_there_also_after_a_space(refuse):
    refuse("configs/nowhere.py: no such file", "--config", "configs/nowhere.py")


@pytest.mark.parametrize("mode", ["train", "sample", "evaluate", "export"])
def test_a_workdir_without_a_run(mode, refuse, tmp_path):
    refuse(f"{tmp_path} holds no run.*--config", f"--workdir={tmp_path}", f"--mode={mode}")


@pytest.mark.parametrize("mode", ["analyze", "compare"])
def test_modes_that_are_of_no_run_want_a_configuration(mode, refuse, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    refuse(f"--mode={mode} needs a conf.*--config", f"--workdir={tmp_path}", f"--mode={mode}")


def test_no_flag_at_all(forked):
    code, output = forked()
    assert code == 1 and output.startswith("error: no configuration: pass --config=configs/")
    assert output.rstrip().endswith("the folder of a run as --workdir")


def test_a_bad_variant(refuse):
    refuse("3k.*choose of.*1k", "--config=configs/ffhq64_tada.py:3k")
    refuse("ar-tada.*one too many of: tada.*ar.tada", "--config=configs/digits_tada.py:ar-tada")


@pytest.mark.parametrize(
    ("variant", "arguments", "message"),
    [
        ("scoreaug", ("--config.scoreaug.ops=('spin',)",), "config.scoreaug: .*'spin'.*rotation"),
        ("scoreaug", ("--config.scoreaug.brightness=0.5",), "config.scoreaug.brightness=0.5"),
        ("scoreaug+tada", ("--config.tada.schedule=fitted",), "schedule='fitted'.*band='given'"),
        (
            "scoreaug+tada",
            ("--config.tada.schedule=table", "--config.tada.table=((0,(1,1,0)),)"),
            "config.tada.table.*one number a level",
        ),
        ("sda", ("--config.sda.weight=-1.0",), "sda.weight"),
        ("sda-edm", (), "method='sda'.*parameterisation='eps'"),
        ("tada", ("--config.train.class_dropout=0.1",), "class_dropout=0.1.*class_conditional"),
        (
            "tada",
            (
                "--config.diffusion.weighting=p2",
                "--config.diffusion.p2_k=0.0",
                "--config.diffusion.p2_gamma=9.0",
            ),
            "p2_gamma=9 with p2_k=0 cannot be.*p2_k=1",
        ),
        (
            "tada",
            ("--config.log.metrics_every=1", "--config.log.metrics_count=1"),
            "metrics_count=1.*at least 2",
        ),
        ("edm", ("--config.schedule.edm.rho=0.0",), "config.schedule.edm: rho"),
        ("flow", ("--config.schedule.flow.times=cosine",), "config.schedule.flow: times.*uniform"),
        ("flow", ("--config.sample.stride=ddim",), "config.sample: stride.*logsnr"),
        ("edm", ("--config.diffusion.sigma_data=0.0",), "sigma_data"),
    ],
)
def test_a_method_or_formulation_that_cannot_be(variant, arguments, message, refuse):
    refuse(message, f"{DIGITS}:{variant}", *tiny.FLAGS, *arguments)


def test_quarter_turns_need_square_images(refuse, tmp_path):
    path = one_image(tmp_path / "pictures", (16, 24))
    scoreaug = f"{FOLDER}:scoreaug"
    refuse("config.scoreaug: rotation.*ops", scoreaug, path, "--config.data.fit=keep")


# Runs and checkpoints


@pytest.fixture(scope="module")
def trained(forked, tmp_path_factory):
    """A run of three steps by main.py."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    arguments = (DIGITS, *tiny.FLAGS, f"--workdir={folder}", "--config.log.every=1")
    code, output = forked(*arguments, small=True)
    assert not code, output
    return folder


def every_checkpoint_damaged(run):
    for step in (run / "checkpoints").iterdir():
        tiny.damage(step)


def without_meta(run):
    shutil.rmtree(run / "checkpoints" / "3" / "meta")


RUNS = {
    "damaged": (every_checkpoint_damaged, "can be read"),
    "incomplete": (without_meta, "can be read"),
    "config": (lambda run: (run / "config.json").write_text("{"), "config.json is damaged"),
    "list": (lambda run: (run / "config.json").write_text("[1]"), "config.json is damaged"),
}


@pytest.mark.parametrize("mode", ["train", "sample"])
@pytest.mark.parametrize("kind", RUNS)
def test_a_damaged_run(kind, mode, refuse, trained, tmp_path):
    shutil.copytree(trained, tmp_path / "run")
    change, message = RUNS[kind]
    change(tmp_path / "run")
    arguments = (DIGITS, *tiny.FLAGS, f"--workdir={tmp_path / 'run'}", f"--mode={mode}")
    refuse(message, *arguments, small=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--config.model.channels=16",), "model.channels 8 -> 16"),
        (("--config.data.resolution=16",), "data.resolution None -> 16"),
        (("--mode=sample", "--config.sample.checkpoint=2"), "one of 3"),
        (("--mode=sample", "--config.sample.steps=99"), "99"),
        (("--mode=sample", "--config.model.channels=16"), "model.channels 8 -> 16"),
        (("--mode=evaluate", "--config.evaluate.count=10"), "evaluate.count=10"),
        (("--mode=evaluate", "--config.evaluate.extractor=inception"), "evaluate.weights names no"),
        (
            (
                "--mode=evaluate",
                "--config.evaluate.extractor=inception",
                "--config.evaluate.weights=/nowhere.pth",
            ),
            "/nowhere.pth",
        ),
        (("--mode=evaluate", "--config.evaluate.extractor=mine.py:f"), "mine.py"),
        (("--mode=evaluate", "--config.sample.ema_width=0.1"), "config.ema.widths"),
        (("--mode=evaluate", "--config.sample.ema_width=0.5"), "width=0.5"),
        (("--mode=evaluate", "--config.method=none"), "method 'tada' -> 'none'"),
        (("--mode=compare", "--config.compare.methods=('tadda',)"), "'tadda' is unknown"),
        (("--mode=compare", "--config.compare.train_sizes=(99999,)"), "99999"),
        (("--mode=compare", "--config.compare.train_sizes=('many',)"), "train_sizes: 'many'"),
        (("--mode=compare", "--config.compare.seeds=(0.5,)"), "compare.seeds: 0.5"),
        (("--mode=compare", "--config.compare.methods=(3,)"), "compare.methods: 3"),
        (("--mode=evaluate", "--dry_run"), "--dry_run is of --mode=train"),
    ],
)
def test_a_configuration_that_does_not_fit_the_run(arguments, message, refuse, trained):
    refuse(message, DIGITS, *tiny.FLAGS, f"--workdir={trained}", *arguments, small=True)


def test_fine_tuning_from_another_network(refuse, trained):
    line = refuse(
        "another network", DIGITS, *tiny.FLAGS, f"--config.init.workdir={trained}",
        "--config.model.channels=16", small=True,
    )  # fmt: skip
    assert "config.model" in line


@pytest.mark.parametrize("size", [60_000, 100_000], ids=["picture", "checkpoint"])
def test_a_disk_on_which_files_cannot_grow(size, forked, tmp_path):
    """RLIMIT_FSIZE is the full disk that a test can have: writing fails in the middle."""
    arguments = (f"--workdir={tmp_path / 'run'}", "--config.model.channels=32")
    limits, cache = {"RLIMIT_FSIZE": size}, {"JAX_ENABLE_COMPILATION_CACHE": "false"}
    how = {"limits": limits, "small": True, "drawn": True}
    code, output = forked(DIGITS, *tiny.FLAGS, *arguments, **how, **cache)
    assert code not in (0, 70) and "Traceback" not in output, output
    assert len(output.splitlines()) < 60  # the report, progress, and one line
    (line,) = (line for line in output.splitlines() if line.startswith("error: "))
    assert str(tmp_path / "run") in line and "same command continues" in line
