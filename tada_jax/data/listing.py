"""The files of a folder or an archive: which there are, and their contents; nothing is decoded.

Names are POSIX, relative to the root. What a Mac or a Synology station keeps beside the files is
passed over, links are followed unless they lead to where they lie, and members of archives are
read, never unpacked.
"""

import collections
import contextlib
import dataclasses
import os
import pathlib
import stat
from collections.abc import Callable, Iterable, Iterator

from tada_jax.data import images, labels, rasters
from tada_jax.data.base import not_there
from tada_jax.data.formats import archives, databases, huggingface
from tada_jax.data.names import Place, head_of_file, is_hidden, may_be_dicom, read_file
from tada_jax.system.errors import UserError


@dataclasses.dataclass(frozen=True)
class Files:
    """Image files by their names, sorted; `read` raises ValueError.

    Attributes:
      names: of the images.
      others: names of files that are no images.
      read: the content of a file by its name.
      runs: folders of runs, whose pictures are not those of the data set.
      told: what the set itself says of its images, if it does.
      said: lines for the report.
      lies_in: the file on the disk that holds one of them; None where others hold parts of it.
    """

    names: list[str]
    others: tuple[str, ...]
    read: Callable[[str], bytes]
    runs: tuple[str, ...] = ()
    told: labels.Told | None = None
    said: tuple[str, ...] = ()
    lies_in: Callable[[str], Place | None] = lambda name: None


def list_files(path: pathlib.Path, stack: contextlib.ExitStack) -> Files:
    """The files at a path, which stay readable until `stack` ends.

    Raises:
      UserError: if there is nothing, or it is a run or no archive, or has names that cannot be.
    """
    try:
        if stat.S_ISDIR(path.stat().st_mode):
            return _of_folder(path, stack)
        if not path.is_file():
            raise UserError(f"data.path={path} is neither a folder nor a file")
        if path.name.lower().endswith(archives.TARS):
            return _of_tars(path, {path.name: path}, stack)
        if path.name.lower().endswith(huggingface.ENDINGS):
            return _of_tables(path, {path.name: path})
        if path.name == databases.FILE:
            return _of_database(path.parent, stack)
        members = archives.of_zip(path, stack)
    except FileNotFoundError as error:
        raise not_there(path) from error
    except OSError as error:
        raise UserError(
            f"data.path={path}: {error.filename or path} cannot be read ({error.strerror})"
        ) from error
    return _of_members(members)


def _of_members(members: archives.Members) -> Files:
    chosen = _choose(members, lambda name: members[name].read(), lambda name: members[name].head())
    return dataclasses.replace(chosen, lies_in=lambda name: members[name].lies_in)


def _of_folder(path: pathlib.Path, stack: contextlib.ExitStack) -> Files:
    if is_run(path):
        raise UserError(
            f"data.path={path} is the folder of a run: name that of the images, or, to train on "
            f"samples, one below {path / 'samples'}"
        )
    runs = []
    chosen = _choose(
        _walk(path, "", (), runs),
        lambda name: read_file(os.path.join(path, name)),
        lambda name: head_of_file(path / name),
    )
    if not chosen.names:
        tables = huggingface.find(path, list(chosen.others))
        if tables:
            return _of_tables(path, {name: path / name for name in tables}, chosen.others)
        if databases.FILE in chosen.others:
            return _of_database(path, stack, chosen.others)
        tars = [name for name in chosen.others if name.lower().endswith(archives.TARS)]
        if tars:
            return _of_tars(path, {name: path / name for name in tars}, stack, chosen.others)
    sets = (*archives.TARS, *huggingface.ENDINGS, ".mdb")
    beside = [name for name in chosen.others if name.lower().endswith(sets)]
    if beside:
        chosen = dataclasses.replace(
            chosen,
            said=(
                f"images are read, and not what lies in {by_ending(beside)} beside them: name such "
                "a file as data.path, if that is the set",
            ),
        )
    return dataclasses.replace(
        chosen, runs=tuple(sorted(runs)), lies_in=lambda name: Place(os.path.join(path, name))
    )


def _of_tars(
    path: pathlib.Path,
    tars: dict[str, pathlib.Path],
    stack: contextlib.ExitStack,
    others: Iterable[str] = (),
) -> Files:
    members, said = archives.of_tars(path, tars, stack)
    chosen = _of_members(members)
    beside, lines = archives.companions(chosen.names)
    return dataclasses.replace(
        chosen,
        names=[name for name in chosen.names if name not in beside],
        others=(*chosen.others, *(name for name in others if name not in tars)),
        said=(*said, *lines),
    )


def _of_tables(
    path: pathlib.Path, tables: dict[str, pathlib.Path], beside: Iterable[str] = ()
) -> Files:
    rows = huggingface.load(path, tables)
    known = huggingface.BESIDE
    others = [
        name for name in beside if name not in tables and name.rpartition("/")[2] not in known
    ]
    facts = {"told": rows.told, "said": rows.said, "lies_in": rows.lies_in}
    return Files(rows.names, tuple(others), rows.read, **facts)


def _of_database(
    path: pathlib.Path, stack: contextlib.ExitStack, others: Iterable[str] = ()
) -> Files:
    file = path / databases.FILE
    place = Place(file, file.stat())
    try:
        names, read, said = databases.open_images(path, stack)
    except ValueError as error:
        raise UserError(f"data.path={path} {error}") from error
    told = labels.Told({}, "no classes, which a database of images does not tell")
    others = tuple(name for name in others if name not in databases.FILES)
    return Files(names, others, read, told=told, said=said, lies_in=lambda name: place)


def _choose(
    names: Iterable[str], read: Callable[[str], bytes], head: Callable[[str], bytes]
) -> Files:
    visible = [name for name in names if not is_hidden(name)]
    chosen = [
        name
        for name in visible
        if name.lower().endswith(images.ENDINGS)
        or (may_be_dicom(name) and rasters.dicom.is_one(head(name)))
    ]
    return Files(sorted(chosen), tuple(sorted(set(visible).difference(chosen))), read)


def by_ending(names: Iterable[str]) -> str:
    """How many files have which ending, as ".heic 40, .csv 1"; "" for none."""
    count = collections.Counter(os.path.splitext(name)[1].lower() or "no ending" for name in names)
    most_first = sorted(count.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{ending} {number:,}" for ending, number in most_first)


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
        if is_hidden(entry.name):
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
