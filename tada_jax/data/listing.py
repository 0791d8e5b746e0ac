"""The files of a folder or zip: which there are, and their contents; nothing is decoded.

Names are POSIX, relative to the root. What a Mac or a Synology station keeps beside the files is
passed over, links are followed unless they lead to where they lie, and members of archives are read
in memory, never unpacked.
"""

import collections
import contextlib
import dataclasses
import os
import pathlib
import stat
import zipfile
from collections.abc import Callable, Iterable, Iterator

from tada_jax.data import images, rasters
from tada_jax.data.base import MAX_FILE_BYTES
from tada_jax.system.errors import UserError

_HEAD = 132  # bytes by which a DICOM file is told


@dataclasses.dataclass(frozen=True)
class Files:
    """Image files by their names, sorted; `read` raises ValueError."""

    names: list[str]
    others: tuple[str, ...]  # files whose names are not those of images
    read: Callable[[str], bytes]
    runs: tuple[str, ...] = ()  # folders of runs, whose pictures are not those of the data set


def list_files(path: pathlib.Path, stack: contextlib.ExitStack) -> Files:
    """The files at a path, which stay readable until `stack` ends.

    Raises:
      UserError: if there is nothing, or it is a run or no zip, or has names that cannot be.
    """
    try:
        if stat.S_ISDIR(path.stat().st_mode):
            if is_run(path):
                raise UserError(
                    f"data.path={path} is the folder of a run: name that of the images, or, to "
                    f"train on samples, one below {path / 'samples'}"
                )
            runs = []
            chosen = _choose(
                _walk(path, "", (), runs),
                lambda name: _read_file(path / name),
                lambda name: _head_of_file(path / name),
            )
            return dataclasses.replace(chosen, runs=tuple(sorted(runs)))
        if not path.is_file():
            raise UserError(f"data.path={path} is neither a folder nor a file")
        # Opened here, because a ZipFile that opens its file may close it under several threads.
        file = stack.enter_context(path.open("rb"))
    except FileNotFoundError as error:
        raise UserError(f"data.path={path} does not exist") from error
    except OSError as error:
        raise UserError(
            f"data.path={path}: {error.filename or path} cannot be read ({error.strerror})"
        ) from error
    try:
        archive = zipfile.ZipFile(file)
    except Exception as error:  # damaged archives raise almost anything
        what = "no zip"
        with contextlib.suppress(OSError):  # of files that are not on a disk
            file.seek(0)
            what = "a zip that is damaged or cut short" if file.read(2) == b"PK" else what
        raise UserError(
            f"data.path={path} is {what}; pass a folder or a zip of images, or an .npz or .npy file"
        ) from error
    members = {}
    for info in archive.infolist():
        if info.is_dir():
            continue
        name = _member_name(path, _utf_8(info))
        if name in members and not _is_hidden(name):
            raise UserError(
                f"data.path={path} has several members named {shown(name)}, of which one would be "
                "lost: pack the images again, each under a name of its own"
            )
        members[name] = info
    return _choose(
        members,
        lambda name: _read_member(archive, members[name]),
        lambda name: _head_of_member(archive, members[name]),
    )


def _choose(
    names: Iterable[str], read: Callable[[str], bytes], head: Callable[[str], bytes]
) -> Files:
    visible = [name for name in names if not _is_hidden(name)]
    chosen = [
        name
        for name in visible
        if name.lower().endswith(images.ENDINGS)
        or (_may_be_dicom(name) and rasters.dicom.is_one(head(name)))
    ]
    return Files(sorted(chosen), tuple(sorted(set(visible).difference(chosen))), read)


def _may_be_dicom(name: str) -> bool:
    """Whether to look into a file: scanners give no ending, Siemens .ima, and a UID ends in digits.

    DICOMDIR, the table of contents of a disc, is a DICOM file without an image.
    """
    last = name.rpartition("/")[2].lower()
    _, ending = os.path.splitext(last)
    return last != "dicomdir" and (ending in ("", ".ima") or ending[1:].isdigit())


def by_ending(names: Iterable[str]) -> str:
    """How many files have which ending, as ".heic 40, .csv 1"; "" for none."""
    count = collections.Counter(os.path.splitext(name)[1].lower() or "no ending" for name in names)
    most_first = sorted(count.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{ending} {number:,}" for ending, number in most_first)


def _is_hidden(name: str) -> bool:
    # What a Mac packs beside its files, and what a Synology station keeps about them.
    return any(part.startswith(".") or part in ("__MACOSX", "@eaDir") for part in name.split("/"))


def is_run(folder: pathlib.Path) -> bool:
    """Whether a folder is that of a run, by the files that every run writes first."""
    return all((folder / name).is_file() for name in ("config.json", "versions.json"))


def _walk(folder: pathlib.Path, prefix: str, above: tuple, runs: list[str]) -> Iterator[str]:
    """Yields the names of all files but those of runs, whose folders are appended to `runs`.

    Follows links, but not to a folder that they lie in.
    """
    status = folder.stat()
    identity = status.st_dev, status.st_ino
    if identity in above:
        return
    for entry in os.scandir(folder):
        if _is_hidden(entry.name):
            continue
        # os.path, because a link to itself makes entry.is_dir() raise.
        if os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir():
            if is_run(folder / entry.name):
                runs.append(prefix + entry.name)
                continue
            inside = folder / entry.name, f"{prefix}{entry.name}/", (*above, identity)
            yield from _walk(*inside, runs)
        else:
            yield prefix + entry.name


def _utf_8(info: zipfile.ZipInfo) -> str:
    """The name of a member: many tools write UTF-8 and do not set the flag that says so."""
    if not info.flag_bits & 0x800:
        with contextlib.suppress(UnicodeError):  # then it is in the code page of DOS, as zips were
            return info.filename.encode("cp437").decode("utf-8")
    return info.filename


def _member_name(path: pathlib.Path, name: str) -> str:
    if name.startswith("/") or "\\" in name or ".." in name.split("/") or name[1:2] == ":":
        raise UserError(
            f"data.path={path} has a member named {name!r}, which points outside of it or is no "
            "POSIX name; pack the images again"
        )
    return str(pathlib.PurePosixPath(name))  # without ./ in front


def _read_file(file: pathlib.Path) -> bytes:
    try:
        status = file.stat()
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("is no regular file")
        _check_bytes(status.st_size)
        return file.read_bytes()
    except OSError as error:
        raise ValueError(error.strerror or str(error)) from error


def _read_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    if info.flag_bits & 1:
        raise ValueError("is encrypted")
    # The others can inflate without bound in a single step.
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError("is neither stored nor deflated, the compressions that are read from zips")
    _check_bytes(info.file_size)
    try:
        with archive.open(info) as member:
            content = member.read(info.file_size + 1)  # one more, so that the checksum is verified
    except Exception as error:  # damaged archives raise almost anything
        raise ValueError(" ".join(str(error).split()) or type(error).__name__) from error
    if len(content) != info.file_size:
        raise ValueError(f"has {len(content):,} bytes, not the {info.file_size:,} it declares")
    return content


def _head_of_file(file: pathlib.Path) -> bytes:
    """The first bytes of a file; b"" where it cannot be read."""
    with contextlib.suppress(OSError):
        if stat.S_ISREG(file.stat().st_mode):
            with file.open("rb") as stream:
                return stream.read(_HEAD)
    return b""


def _head_of_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    """The same of a zip."""
    if info.flag_bits & 1 or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return b""
    with contextlib.suppress(Exception), archive.open(info) as member:
        return member.read(_HEAD)
    return b""


def _check_bytes(size: int) -> None:
    if size > MAX_FILE_BYTES:
        raise ValueError(f"has {size:,} bytes, more than {MAX_FILE_BYTES:,}")


def shown(name: str) -> str:
    """The name of a file, to be printed in a line."""
    return name if name.isprintable() else ascii(name)
