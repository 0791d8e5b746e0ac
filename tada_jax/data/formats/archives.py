"""Archives of image files: zips, and tars as WebDataset's. Members are read, never unpacked."""

import bz2
import collections
import contextlib
import dataclasses
import functools
import gzip
import lzma
import os
import pathlib
import shutil
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable

from tada_jax.data import kinds, labels, splits
from tada_jax.data.names import HEAD, Place, check_bytes, is_hidden, shown
from tada_jax.system.errors import UserError
from tada_jax.system.paths import cache_dir


@dataclasses.dataclass(frozen=True)
class Member:
    """A file in an archive.

    Attributes:
      read: its content; raises ValueError.
      head: its first `HEAD` bytes; b"" where it cannot be read.
      lies_in: the archive.
    """

    read: Callable[[], bytes]
    head: Callable[[], bytes]
    lies_in: Place


Members = dict[str, Member]  # by their names

TARS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
_COMPRESSED = ((b"\x1f\x8b", gzip), (b"BZh", bz2), (b"\xfd7zXZ", lzma))

# Zips


def of_zip(path: pathlib.Path, stack: contextlib.ExitStack) -> Members:
    """The members of a zip.

    Raises:
      UserError: if it is none, or has names that cannot be, or one twice.
    """
    place = Place(path, path.stat())
    # Opened here, because a ZipFile that opens its file may close it under several threads.
    file = stack.enter_context(path.open("rb"))
    try:
        archive = zipfile.ZipFile(file)
    except Exception as error:  # damaged archives raise almost anything
        what = "no zip"
        with contextlib.suppress(OSError):  # of files that are not on a disk
            file.seek(0)
            head = file.read(HEAD)
            if kinds.is_image(head):
                what = "a single image"
            elif head.startswith(b"PK"):
                what = "a zip that is damaged or cut short"
        raise UserError(
            f"data.path={path} is {what}: pass a folder, a zip or tar of images, or one of the "
            "files that docs/data.md lists"
        ) from error
    members = {}
    for info in archive.infolist():
        if not info.is_dir():
            name = _member_name(path, _utf_8(info))
            read, head = (functools.partial(f, archive, info) for f in (_read_member, _head))
            _add(members, path, name, Member(read, head, place))
    return members


def _add(members: Members, path: pathlib.Path, name: str, member: Member) -> None:
    if name in members and not is_hidden(name):
        raise UserError(
            f"data.path={path} has several members named {shown(name)}, of which one would be "
            "lost: pack the images again, each under a name of its own"
        )
    members[name] = member


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


def _read_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    if info.flag_bits & 1:
        raise ValueError("is encrypted")
    # The others can inflate without bound in a single step.
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError("is neither stored nor deflated, the compressions that are read from zips")
    check_bytes(info.file_size)
    try:
        with archive.open(info) as member:
            content = member.read(info.file_size + 1)  # one more, so that the checksum is verified
    except Exception as error:  # damaged archives raise almost anything
        raise ValueError(" ".join(str(error).split()) or type(error).__name__) from error
    if len(content) != info.file_size:
        raise ValueError(f"has {len(content):,} bytes, not the {info.file_size:,} it declares")
    return content


def _head(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    if info.flag_bits & 1 or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return b""
    with contextlib.suppress(Exception), archive.open(info) as member:
        return member.read(HEAD)
    return b""


# Tars


def of_tars(
    path: pathlib.Path, tars: dict[str, pathlib.Path], stack: contextlib.ExitStack
) -> tuple[Members, list[str]]:
    """(the members of tars that are one set, lines for the report).

    Tars whose names tell splits, as `train-000000.tar` and `val-000000.tar`, have their members
    below folders of those names.

    Args:
      path: what the user named.
      tars: the files by their names.
      stack: closes them.

    Raises:
      UserError: if one is no tar, or has names that cannot be, or one twice.
    """
    split, left = splits.of_shards(list(tars))
    said = [f"left out: {', '.join(left)}, of no split that is known"] if left else []
    found, shards_of = [], collections.defaultdict(set)  # {(split, key): shards}
    for shard in sorted(split):
        members = _of_tar(tars[shard], stack)
        inside = _below_own_split(members, split[shard])
        for name, member in members.items():
            name = name[inside:]
            found.append((shard, name, member))
            shards_of[split[shard], _key(name)].add(shard)
    all_members = {}
    for shard, name, member in found:
        key = _key(name)
        if len(shards_of[split[shard], key]) > 1:  # keys that count from 0 in every shard
            base = name.rpartition("/")[2]
            if base == labels.FILE or base in labels.TABLES:
                raise UserError(
                    f"data.path={path}: several of its tars have a {base}: pack one set in one, or "
                    "unpack them"
                )
            stem = shard.removesuffix(pathlib.PurePath(shard).suffix)
            # Behind the key and without dots, at the first of which a key ends.
            name = f"{key}~{stem.replace('/', '-').replace('.', '_')}{name[len(key) :]}"
        _add(all_members, path, f"{split[shard]}/{name}" if split[shard] else name, member)
    return all_members, said


def _key(name: str) -> str:
    """WebDataset's key of a file: its name up to the first dot of the last part."""
    folder, slash, base = name.rpartition("/")
    return folder + slash + base.partition(".")[0]


def _below_own_split(members: Members, split: str) -> int:
    """How many characters of names are the folder of the shard's own split, as of `tar cf`."""
    folders = {name.partition("/")[0] for name in members if not is_hidden(name)}
    alone = len(folders) == 1 and all("/" in name for name in members if not is_hidden(name))
    if not split or not alone:
        return 0
    (folder,) = folders
    return len(folder) + 1 if splits.of_shards([folder, "train"])[0].get(folder) == split else 0


def _of_tar(path: pathlib.Path, stack: contextlib.ExitStack) -> Members:
    members, place = {}, Place(path, path.stat())
    try:
        file = _plain(stack.enter_context(path.open("rb")), stack)
        with tarfile.open(fileobj=file, mode="r:") as archive:
            for info in archive:
                if not info.isdir():
                    name = _member_name(path, info.name)
                    read = functools.partial(_read_span, file, info)
                    head = functools.partial(read, HEAD)
                    _add(members, path, name, Member(read, head, place))
            _check_end(file, archive.offset)
    except (tarfile.TarError, EOFError, ValueError, lzma.LZMAError, zlib.error) as error:
        raise UserError(
            f"data.path={path} is a tar that is damaged or cut short ({error}): fetch it again, or "
            "pack it anew"
        ) from error
    return members


def _check_end(file, end: int) -> None:
    """Raises ValueError unless zeros alone follow: a damaged header looks like an end."""
    if not os.pread(file.fileno(), 1, end):
        raise ValueError("it has no mark of its end")
    while rest := os.pread(file.fileno(), 2**20, end):
        if rest.strip(b"\0"):
            raise ValueError(f"members behind byte {end:,}, where it ends")
        end += len(rest)


def _plain(file, stack: contextlib.ExitStack):
    """A tar that can be read at any place: one that is compressed is unpacked into a nameless file.

    Raises:
      UserError: if there is no room for it in the folder of the cache.
    """
    start = file.read(6)
    file.seek(0)
    library = next((some for bytes_, some in _COMPRESSED if start.startswith(bytes_)), None)
    if library is None:
        return file
    try:
        cache_dir().mkdir(parents=True, exist_ok=True)
        whole = stack.enter_context(tempfile.TemporaryFile(dir=cache_dir()))  # noqa: SIM115
    except OSError as error:
        raise UserError(f"the cache {cache_dir()} cannot be written ({error.strerror})") from error
    try:
        with library.open(file) as unpacked:
            shutil.copyfileobj(unpacked, whole, 2**20)
    except OSError as error:
        if error.errno is None:  # what gzip and bz2 say of damage
            raise ValueError(str(error)) from error
        raise UserError(
            f"there is no room in the cache {cache_dir()} to unpack {file.name} "
            f"({error.strerror}): free some space, or set TADA_JAX_CACHE to another folder"
        ) from error
    whole.seek(0)  # which also writes what is buffered
    return whole


def _read_span(file, info: tarfile.TarInfo, most: int | None = None) -> bytes:
    if not info.isreg() or info.issparse():
        if most is not None:
            return b""
        raise ValueError("is a link, or no plain file, in its tar: pack it as a file")
    if most is None:
        check_bytes(info.size)
    size = info.size if most is None else min(most, info.size)
    return os.pread(file.fileno(), size, info.offset_data)


def companions(names: list[str]) -> tuple[set[str], list[str]]:
    """(images that WebDataset keeps beside others, lines for the report).

    A key is the name up to the first dot of its last part: `0001.mask.png` is a field of the sample
    `0001`, whose picture is `0001.jpg`.

    Args:
      names: of the images in tars.
    """
    fields = collections.defaultdict(dict)
    for name in names:
        key = _key(name)
        fields[key][name[len(key) + 1 :].lower()] = name
    left, several, said = {}, [], []
    for some in fields.values():
        further = {name: field for field, name in some.items() if "." in field}
        if len(further) < len(some):
            left |= further
        if len(some) - len(further) > 1 or len(further) == len(some) > 1:
            several.append(sorted(some.values()))
    if left:
        counts = sorted(collections.Counter(left.values()).items())
        listed = ", ".join(f".{field} {count:,}" for field, count in counts)
        said.append(f"left out: what lies beside images ({listed})")
    if several:
        said.append(
            f"{sum(map(len, several)):,} images share {len(several):,} keys up to the first dot, "
            f"as {shown(several[0][0])}: each is an image, though WebDataset makes one sample of a "
            "key"
        )
    return set(left), said
