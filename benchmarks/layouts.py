"""Writes small image sets in every layout that is read, and prints what --dry_run says of each.

    python -m benchmarks.layouts                    # all, as in docs/data_reports.md
    python -m benchmarks.layouts webdataset masks   # those whose title has such a word

What is printed are the lines `data` and `advice` of `main.py --config=configs/folder_tada.py
--config.data.path=PATH --dry_run`, or the refusal. Everything is written to a temporary folder.
"""

import argparse
import csv
import gzip
import io
import json
import os
import pathlib
import pickle
import struct
import tarfile
import tempfile
import zipfile

import numpy as np
from PIL import Image

COUNT, SIDE = 24, 32
RANDOM = np.random.default_rng(0)
LAYOUTS = {}  # title -> (what writes it into a folder and returns the path, flags)


def layout(title, **flags):
    """Adds a writer to `LAYOUTS`; flags are fields of the section `data`."""

    def add(write):
        LAYOUTS[title] = write, flags
        return write

    return add


def picture(i, side=SIDE, channels=3):
    """A coloured blob on a gradient, uint8 [side,side,channels]."""
    y, x = np.mgrid[:side, :side] / side
    a, b, c = RANDOM.random(3)
    blob = np.exp(-((x - a) ** 2 + (y - b) ** 2) * 20)
    planes = [blob, x * c + blob / 2, y * (1 - c)][:channels]
    return (255 * np.stack(planes, -1).clip(0, 1)).astype(np.uint8)


def encoded(pixels, kind="PNG", **options):
    """An image file as bytes."""
    file = io.BytesIO()
    Image.fromarray(pixels.squeeze()).save(file, kind, **options)
    return file.getvalue()


def pictures(*names, **options):
    """{name: PNG}."""
    return {name: encoded(picture(i, **options)) for i, name in enumerate(names)}


def numbered(*folders, ending="png"):
    """Names of `COUNT` files by turns in folders."""
    return [f"{folders[i % len(folders)]}/{i:04}.{ending}" for i in range(COUNT)]


def write(folder, files):
    """Writes {name: content}."""
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def write_zip(folder, files):
    """Writes {name: content} as a stored zip."""
    with zipfile.ZipFile(folder / "set.zip", "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return folder / "set.zip"


def write_tar(file, files):
    """Writes {name: content} as a tar."""
    with tarfile.open(file, "w") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return file


def table(rows):
    """Rows of a table as csv."""
    file = io.StringIO()
    csv.writer(file).writerows(rows)
    return file.getvalue()


# Folders and zips


@layout("class folders, with a stray, a HEIC and a table of something else")
def _folders(folder):
    files = pictures(*numbered("cat", "dog", "emu"), "cover.png")
    return write(folder, files | {"cat/phone.heic": b"\0\0\0\x18ftypheic", "notes.csv": "a,b\n"})


@layout("EDM's dataset tool: chunk folders, dataset.json with labels, in a zip")
def _edm(folder):
    names = [f"00000/img{i:08}.png" for i in range(COUNT)]
    listed = [[name, i % 2] for i, name in enumerate(names)]
    return write_zip(folder, pictures(*names) | {"dataset.json": json.dumps({"labels": listed})})


@layout("FFHQ: chunks of 1,000 and no labels")
def _ffhq(folder):
    names = [f"{i // 1000 * 1000:05}/{i:05}.png" for i in range(995, 995 + COUNT)]
    return write(folder, pictures(*names))


@layout("AFHQ: train/cat, val/cat, ...")
def _afhq(folder):
    return write(folder, pictures(*numbered("train/cat", "train/dog", "val/cat", "val/dog")))


@layout("train, val and test, flat")
def _three_splits(folder):
    return write(folder, pictures(*numbered("train", "train", "val", "test")))


@layout("Hugging Face's imagefolder: metadata.csv")
def _imagefolder(folder):
    names = [f"{i:04}.png" for i in range(COUNT)]
    rows = [("file_name", "label"), *((name, "ab"[i % 2]) for i, name in enumerate(names))]
    return write(folder, pictures(*names) | {"metadata.csv": table(rows)})


@layout("Kaggle: flat train/ and test/, train.csv with ids")
def _kaggle(folder):
    names = numbered("train", "train", "train", "test")
    ids = [name[6:10] for name in names if name.startswith("train")]
    rows = [("image_id", "diagnosis"), *((name, "ab"[int(name) % 2]) for name in ids)]
    return write(folder, pictures(*names) | {"train.csv": table(rows)})


@layout("guided-diffusion: cat_1.png, dog_2.png", labels="prefix")
def _prefix(folder):
    return write(folder, pictures(*(f"{('cat', 'dog')[i % 2]}_{i}.png" for i in range(COUNT))))


@layout("images beside masks")
def _masks(folder):
    return write(folder, pictures(*numbered("images", "masks")))


@layout("a Synology station's @eaDir, and two files that are no images")
def _odd(folder):
    files = pictures(*numbered("."), "@eaDir/0001.png")
    odd = {"0100.png": "version https://git-lfs.github.com/spec/v1\n", "0101.jpg": "<html></html>"}
    return write(folder, files | odd)


@layout("the same, with data.unreadable=skip", unreadable="skip")
def _odd_skipped(folder):
    return _odd(folder)


# Values, pages, colours


@layout("12 bits of a camera in 16, PNG")
def _camera(folder):
    made = {f"{i}.png": picture(i, channels=1).astype(np.uint16) * 16 for i in range(COUNT)}
    return write(folder, {name: encoded(pixels) for name, pixels in made.items()})


@layout("masks of 0 and 1")
def _binary(folder):
    made = {f"{i}.png": (picture(i, channels=1) > 100).astype(np.uint8) for i in range(COUNT)}
    return write(folder, {name: encoded(pixels) for name, pixels in made.items()})


@layout("float32 TIFFs")
def _floats(folder):
    import tifffile

    for i in range(COUNT):
        pixels = picture(i, channels=1)[..., 0].astype(np.float32) / 37 - 2
        tifffile.imwrite(folder / f"{i}.tif", pixels)
    return folder


@layout("uint16 TIFFs in planes, compressed by zstd (tifffile)")
def _planes(folder):
    import tifffile

    for i in range(COUNT):
        pixels = picture(i).transpose(2, 0, 1).astype(np.uint16) * 257
        options = {"photometric": "rgb", "planarconfig": "separate", "compression": "zstd"}
        tifffile.imwrite(folder / f"{i}.tif", pixels, **options)
    return folder


def _stacks(folder):
    import tifffile

    for i in range(6):
        stack = np.stack([picture(5 * i + k, channels=1)[..., 0] for k in range(5)])
        tifffile.imwrite(folder / f"{i}.tif", stack, photometric="minisblack")
    return folder


layout("stacks of five pages")(_stacks)
layout("the same, with data.pages=all", pages="all")(_stacks)


@layout("28x28 images")
def _small(folder):
    return write(folder, pictures(*numbered("."), side=28, channels=1))


# Arrays


@layout("MedMNIST's npz", resolution=32, fit="pad")
def _medmnist(folder):
    arrays = {}
    for part, count in (("train", 16), ("val", 4), ("test", 4)):
        arrays[f"{part}_images"] = np.stack([picture(i, 28) for i in range(count)])
        arrays[f"{part}_labels"] = (np.arange(count) % 2)[:, None]
    np.savez(folder / "set.npz", **arrays)
    return folder / "set.npz"


@layout("a .npy of floats from -1 to 1")
def _npy(folder):
    np.save(folder / "set.npy", np.stack([picture(i) for i in range(COUNT)]) / 127.5 - 1)
    return folder / "set.npy"


@layout("MNIST's idx files, gzip", resolution=32, fit="pad")
def _idx(folder):
    for part, count in (("train", 18), ("t10k", 6)):
        images = np.stack([picture(i, 28, 1)[..., 0] for i in range(count)])
        labels = (np.arange(count) % 10).astype(np.uint8)
        for what, array in (("images", images), ("labels", labels)):
            header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
            file = folder / f"{part}-{what}-idx{array.ndim}-ubyte.gz"
            file.write_bytes(gzip.compress(header + array.tobytes()))
    return folder


@layout("STL-10's binary files")
def _stl10(folder):
    for part in ("train", "test"):
        images = np.stack([picture(i, 96).transpose(2, 1, 0) for i in range(10)])
        images.tofile(folder / f"{part}_X.bin")
        (np.arange(10, dtype=np.uint8) + 1).tofile(folder / f"{part}_y.bin")
    return write(folder, {"class_names.txt": "\n".join("abcdefghij")})


@layout("CIFAR-100's binary files")
def _cifar100(folder):
    for part in ("train", "test"):
        rows = [bytes([i % 5, i % 20]) + picture(i).transpose(2, 0, 1).tobytes() for i in range(20)]
        (folder / f"{part}.bin").write_bytes(b"".join(rows))
    return write(folder, {"fine_label_names.txt": "\n".join(f"kind{i}" for i in range(20))})


@layout("HDF5: groups train and test, gzip")
def _hdf5(folder):
    import h5py

    with h5py.File(folder / "set.h5", "w") as file:
        for part, count in (("train", 18), ("test", 6), ("val", 6)):
            images = np.stack([picture(i) for i in range(count)])
            file.create_dataset(f"{part}/images", data=images, compression="gzip")
            file[f"{part}/labels"] = np.arange(count) % 2
    return folder / "set.h5"


@layout("Galaxy10's HDF5, channels first")
def _galaxy10(folder):
    import h5py

    with h5py.File(folder / "Galaxy10.h5", "w") as file:
        file["images"] = np.stack([picture(i).transpose(2, 0, 1) for i in range(COUNT)])
        file["ans"] = np.arange(COUNT) % 3
    return folder / "Galaxy10.h5"


@layout("SVHN's .mat files")
def _svhn(folder):
    import scipy.io

    for part, count in (("train", 18), ("test", 6)):
        images = np.stack([picture(i) for i in range(count)], -1)
        labels = (np.arange(count) % 10 + 1)[:, None]
        scipy.io.savemat(folder / f"{part}_32x32.mat", {"X": images, "y": labels})
    return folder


# Medicine


@layout("DICOM: CT slices in Hounsfield units, one without an ending", range="-160:240")
def _ct(folder):
    for i in range(COUNT):
        values = picture(i, channels=1)[..., 0].astype(np.int16) * 6 - 800
        name = f"{i}.dcm" if i else "IM000001"
        write_dicom(folder / name, values + 1024, slope=1, intercept=-1024, signed=True)
    return folder


@layout("DICOM: X-rays whose white is zero, 12 bits")
def _xray(folder):
    for i in range(COUNT):
        values = 4095 - picture(i, channels=1)[..., 0].astype(np.uint16) * 16
        write_dicom(folder / f"{i}.dcm", values, kind="MONOCHROME1", bits=12)
    return folder


def write_dicom(
    file, values, *, kind="MONOCHROME2", bits=16, slope=None, intercept=0, signed=False
):
    """Writes a DICOM file of a grey image."""
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made = FileDataset(str(file), {}, file_meta=meta, preamble=bytes(128))
    made.SOPClassUID, made.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
    made.Rows, made.Columns = values.shape
    made.SamplesPerPixel, made.PhotometricInterpretation = 1, kind
    made.BitsAllocated, made.BitsStored, made.HighBit = 16, bits, bits - 1
    made.PixelRepresentation = int(signed)
    if slope is not None:
        made.RescaleSlope, made.RescaleIntercept = slope, intercept
    made.PixelData = values.tobytes()
    made.save_as(file, enforce_file_format=True)


def _brains(folder):
    import nibabel

    for i in range(4):
        volume = np.stack([picture(i, channels=1)[..., 0] for _ in range(6)], -1).astype(np.int16)
        nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), folder / f"{i}.nii.gz")
    return folder


layout("NIfTI volumes")(_brains)
layout("the same, with data.pages=all ", pages="all")(_brains)


# Tables, tars, databases


def _arrow(label=True):
    import pyarrow as pa

    columns = {"image": [{"bytes": encoded(picture(i)), "path": None} for i in range(COUNT)]}
    if label:
        columns["label"] = [i % 2 for i in range(COUNT)]
    columns["text"] = ["a picture"] * COUNT
    features = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": ["a", "b"]}}
    told = json.dumps({"info": {"features": features}})
    return pa.table(columns).replace_schema_metadata({"huggingface": told})


@layout("Parquet of the Hub: data/train-00000-of-00001.parquet and test")
def _parquet(folder):
    import pyarrow.parquet

    (folder / "data").mkdir()
    for part in ("train", "test"):
        pyarrow.parquet.write_table(_arrow(), folder / "data" / f"{part}-00000-of-00001.parquet")
    return folder


@layout("datasets' save_to_disk")
def _saved(folder):
    import pyarrow as pa

    name, made = "data-00000-of-00001.arrow", _arrow()
    with pa.OSFile(str(folder / name), "wb") as sink, pa.ipc.new_stream(sink, made.schema) as out:
        out.write_table(made)
    return write(folder, {"state.json": json.dumps({"_data_files": [{"filename": name}]})})


@layout("WebDataset shards with classes and masks")
def _webdataset(folder):
    for shard in ("train-000000", "train-000001", "val-000000"):
        files = {}
        for i in range(8):
            files[f"{i:05}.png"] = encoded(picture(i))
            files[f"{i:05}.mask.png"] = encoded(picture(i, channels=1))
            files[f"{i:05}.cls"] = str(i % 3).encode()
        write_tar(folder / f"{shard}.tar", files)
    return folder


@layout("class folders in a tar")
def _tar(folder):
    return write_tar(folder / "set.tar", pictures(*numbered("cat", "dog")))


def _database(folder, values):
    import lmdb

    with lmdb.open(str(folder), map_size=2**26) as opened, opened.begin(write=True) as writing:
        for key, value in values.items():
            writing.put(key.encode(), value)
    return folder


@layout("LSUN's LMDB")
def _lsun(folder):
    return _database(folder, {f"{i:040x}": encoded(picture(i), "WEBP") for i in range(COUNT)})


@layout("LMDB of pictures in several sizes, as StyleGAN2 in PyTorch keeps them")
def _sizes(folder):
    sizes = ((side, i) for side in (8, 16, 32) for i in range(COUNT))
    files = {f"{side}-{i:05}": encoded(picture(i, side), "JPEG") for side, i in sizes}
    return _database(folder, files | {"length": b"24"})


@layout("LMDB of pickled values")
def _pickled(folder):
    return _database(folder, {"0": pickle.dumps([0])})


def report(path, flags):
    """The lines of --dry_run on a path: `data` and `advice`, or the refusal."""
    from configs import folder_tada
    from tada_jax.setup.plan import plan
    from tada_jax.system.errors import UserError
    from tada_jax.training import describe

    config = folder_tada.get_config()
    config.data.path = str(path)
    for name, value in flags.items():
        config.data[name] = value
    try:
        seen = describe.inspect(plan(config))
    except UserError as error:
        return [f"error: {error}"]
    return [*seen.lines(), *(f"advice: {advice}" for advice in seen.advice)]


def main():
    """Prints the reports of the chosen layouts."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("words", nargs="*", help="of titles; all without")
    words = [word.lower() for word in parser.parse_args().words]
    for title, (writer, flags) in LAYOUTS.items():
        if words and not any(word in title.lower() for word in words):
            continue
        with tempfile.TemporaryDirectory() as temporary:
            os.environ["TADA_JAX_CACHE"] = f"{temporary}/cache"
            folder = pathlib.Path(temporary, "pictures")
            folder.mkdir()
            path = writer(folder)
            shown = " ".join(f"--config.data.{name}={value}" for name, value in flags.items())
            print(f"# {title}")
            print(f"--config.data.path={path.relative_to(temporary)} {shown}".rstrip())
            for line in report(path, flags):
                print(f"  {line.replace(f'{temporary}/', '')}")
            print(flush=True)


if __name__ == "__main__":
    main()
