"""Tables of images as Hugging Face's datasets writes them: parquet, and arrow of `save_to_disk`.

A column of images is a struct {bytes, path}, of which either may be null, or plain binary; names
of classes are in the schema, under `huggingface`. Whatever else lies in a table is named.
"""

import bisect
import collections
import dataclasses
import functools
import itertools
import json
import os
import pathlib
import threading
from collections.abc import Callable
from typing import Any

from tada_jax.data import splits
from tada_jax.data.labels import LABEL_COLUMNS, Told
from tada_jax.data.names import check_bytes, read_file
from tada_jax.system.errors import UserError

ENDINGS = (".parquet", ".arrow")
IMAGE_COLUMNS = ("image", "img", "picture", "jpg", "png", "webp", "bytes", "content")
_LABEL_COLUMNS = (*LABEL_COLUMNS, "fine_label")
_STATE = "state.json"  # of a folder of `save_to_disk`
_END = b"\xff\xff\xff\xff\0\0\0\0"  # of an arrow stream
BESIDE = (_STATE, "dataset_info.json", "dataset_dict.json")


@dataclasses.dataclass(frozen=True)
class Table:
    """One file: its rows lie in groups, which are read one at a time.

    Attributes:
      schema: pyarrow's.
      lengths: rows of each group.
      read: the columns of a group, of its number and their names, as a pyarrow Table.
      holds: whether a column of images is known to hold them all, so that none is in another file.
    """

    schema: Any
    lengths: list[int]
    read: Callable[[int, list[str]], Any]
    holds: Callable[[str], bool]


@dataclasses.dataclass(frozen=True)
class Columns:
    """Which columns hold what.

    Attributes:
      image, label: names; None where there is no label.
      names: of the classes, in order, where the label is their number; ().
      others: columns that are left out.
    """

    image: str
    label: str | None
    names: tuple[str, ...]
    others: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Rows:
    """The images of a set of tables.

    Attributes:
      names: of the images, as "train/train-00000-of-00002.parquet:0000017".
      read: the content of one by its name; raises ValueError.
      told: their classes.
      said: lines for the report.
      lies_in: the table that one is in; None where it may be in a file of its own.
    """

    names: list[str]
    read: Callable[[str], bytes]
    told: Told
    said: tuple[str, ...]
    lies_in: Callable[[str], pathlib.Path | None]


def find(folder: pathlib.Path, files: list[str]) -> list[str]:
    """Those of the files of a folder that are tables of a set.

    Beside the arrow files of `save_to_disk`, which it lists, the library may keep intermediate
    results.
    """
    listed = {}  # folder -> its tables
    for state in (name for name in files if name.rpartition("/")[2] == _STATE):
        root = os.path.dirname(state)
        try:
            some = json.loads((folder / state).read_text())["_data_files"]
            listed[root] = {os.path.join(root, one["filename"]) for one in some}
        except (ValueError, TypeError, KeyError) as error:
            raise UserError(
                f"data.path={folder}: {state} lists no files of a data set "
                f"({type(error).__name__}): save it again with save_to_disk"
            ) from error
        missing = sorted(listed[root].difference(files))
        if missing:
            raise UserError(
                f"data.path={folder}: {state} names {', '.join(missing)}, which is not there: "
                "copy the whole folder"
            )
    found = [name for name in files if name.lower().endswith(ENDINGS)]
    return [name for name in found if name in listed.get(os.path.dirname(name), {name})]


def load(path: pathlib.Path, files: dict[str, pathlib.Path]) -> Rows:
    """The images of tables that are one set.

    Args:
      path: what the user named.
      files: the tables by their names.

    Raises:
      UserError: naming the table that cannot be read, or has no images.
    """
    split, left = splits.of_shards(list(files))
    said = [f"left out: {', '.join(left)}, of no split that is known"] if left else []
    _refuse_several(path, split)
    places, of_each, columns, whole = {}, {}, None, {}
    for file in sorted(split):
        try:
            table = _open(files[file])
            columns = _columns(table.schema)
            labels = _labels(table, columns)
        except ValueError as error:
            raise UserError(f"data.path={path}: {file} {error}") from error
        groups = _Groups(table, columns.image)
        whole[groups] = files[file] if table.holds(columns.image) else None
        prefix = f"{split[file]}/{file}" if split[file] else file
        for row in range(sum(table.lengths)):
            name = f"{prefix}:{row:07}"
            places[name] = groups, row, files[file].parent
            if labels is not None:
                of_each[name] = labels[row]
    if not places:
        raise UserError(f"data.path={path}: its tables have no rows")
    if columns.others:
        said.append(f"left out: columns {', '.join(columns.others)}")
    clause = "no classes, since no column is called label"
    if columns.label and not any(of_each.values()):
        clause = f"no classes, since the column {columns.label!r} is empty"
    elif columns.label:
        clause = f"classes by the column {columns.label!r}"
        counted = len(set(of_each.values()))
        if not columns.names and counted > max(2, len(places) // 2):
            of_each = {}
            clause = (
                f"no classes, since {columns.label!r} has {counted:,} values in {len(places):,} "
                "rows: numbers, no classes"
            )
    told = Told(of_each, clause, columns.names)
    return Rows(
        sorted(places),
        lambda name: _content(*places[name]),
        told,
        tuple(said),
        lambda name: whole[places[name][0]],
    )


def _refuse_several(path, split) -> None:
    """Refuses tables of several sets, as a repository of several configurations holds."""
    folders = collections.defaultdict(set)
    for name, word in split.items():
        parts = [part for part in name.split("/")[:-1] if part.lower() != word]
        folders[word].add("/".join(parts))
    several = sorted(set().union(*(some for some in folders.values() if len(some) > 1)))
    if several:
        raise UserError(
            f"data.path={path} holds several sets ({', '.join(several)}): name the folder of one"
        )


# Files


def _open(file: pathlib.Path) -> Table:
    import pyarrow as pa

    try:
        if file.suffix.lower() == ".parquet":
            return _parquet(file)
        return _arrow(file)
    except (pa.ArrowInvalid, OSError) as error:
        text = " ".join(str(error).split())[:150]
        raise ValueError(f"is damaged, cut short or no table ({text}): fetch it again") from error


def _parquet(file: pathlib.Path) -> Table:
    import pyarrow.parquet

    opened = pyarrow.parquet.ParquetFile(file, memory_map=True)
    groups = range(opened.num_row_groups)
    lengths = [opened.metadata.row_group(group).num_rows for group in groups]

    def holds(column):
        names = (column, f"{column}.bytes")
        for group in groups:
            row_group = opened.metadata.row_group(group)
            columns = [row_group.column(i) for i in range(row_group.num_columns)]
            facts = [c.statistics for c in columns if c.path_in_schema in names]
            if not facts or any(fact is None or fact.null_count != 0 for fact in facts):
                return False
        return True

    return Table(opened.schema_arrow, lengths, opened.read_row_group, holds)


def _arrow(file: pathlib.Path) -> Table:
    import pyarrow as pa

    source = pa.memory_map(str(file))
    try:
        opened = pa.ipc.open_file(source)
        batches = [opened.get_batch(i) for i in range(opened.num_record_batches)]
    except pa.ArrowInvalid:  # as streams, which save_to_disk writes
        source.seek(0)
        opened = pa.ipc.open_stream(source)
        batches = list(opened)
        # One that was cut between two batches is read as if it were whole.
        source.seek(max(0, source.size() - len(_END)))
        if source.read() != _END:
            raise pa.ArrowInvalid("no mark of its end") from None

    def read(group, columns):
        return pa.Table.from_batches([batches[group]]).select(columns)

    def holds(column):
        found = [batch.column(column) for batch in batches]
        found = [a.field("bytes") if pa.types.is_struct(a.type) else a for a in found]
        return not any(array.null_count for array in found)

    return Table(opened.schema, [len(batch) for batch in batches], read, holds)


def _features(schema) -> dict[str, Any]:
    """What `datasets` says of each column, by its name; {} where nothing says it."""
    try:
        return json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
    except (KeyError, TypeError, ValueError):
        return {}


def _columns(schema) -> Columns:
    import pyarrow as pa

    features, names = _features(schema), list(schema.names)

    def is_kind(name, kind):
        return isinstance(features.get(name), dict) and features[name].get("_type") == kind

    def holds_files(name):
        kind = schema.field(name).type
        if pa.types.is_struct(kind):
            return kind.get_field_index("bytes") >= 0
        return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)

    files = [name for name in names if holds_files(name)]
    known = [name for name in files if is_kind(name, "Image")] or files
    if not known:
        pictures = [name for name in names if name in IMAGE_COLUMNS]
        if pictures:
            raise ValueError(
                f"holds no image files in its column {pictures[0]!r} but {_short(schema, pictures)}"
                ": save them as an array, numpy.save('images.npy', ds.with_format('numpy')"
                f"[{pictures[0]!r}])"
            )
        raise ValueError(f"has no column of images (it has {', '.join(names) or 'none'})")
    image = min(known, key=lambda name: _rank(name, IMAGE_COLUMNS))
    if len(known) > 1 and image not in IMAGE_COLUMNS:
        raise ValueError(
            f"has several columns of images ({', '.join(known)}): rename the one that is meant "
            "to image"
        )
    numbered = [name for name in names if is_kind(name, "ClassLabel")]
    plain = [name for name in names if name in _LABEL_COLUMNS and _is_scalar(schema, name)]
    label = min(numbered or plain, key=lambda name: _rank(name, _LABEL_COLUMNS), default=None)
    of_label = tuple(features[label].get("names") or ()) if label in numbered else ()
    others = tuple(name for name in names if name not in (image, label))
    return Columns(image, label, of_label, others)


def _short(schema, names) -> str:
    return str(schema.field(names[0]).type)[:60]


def _rank(name, known) -> int:
    return known.index(name) if name in known else len(known)


def _is_scalar(schema, name) -> bool:
    import pyarrow as pa

    kind = schema.field(name).type
    return pa.types.is_integer(kind) or pa.types.is_string(kind) or pa.types.is_boolean(kind)


def _labels(table: Table, columns: Columns) -> list[str | None] | None:
    """The class of every row as text, None where it has none; None without a column of labels."""
    if columns.label is None:
        return None
    groups = (table.read(i, [columns.label])[columns.label] for i in range(len(table.lengths)))
    found = list(itertools.chain.from_iterable(group.to_pylist() for group in groups))
    if not columns.names:
        return [None if label is None else str(label) for label in found]
    # What has no label is -1 there.
    known = range(len(columns.names))
    strange = {label for label in found if label not in (None, -1) and label not in known}
    if strange:
        raise ValueError(f"has the label {strange.pop()}, and {len(known)} names of classes")
    return [None if label in (None, -1) else columns.names[label] for label in found]


# Rows


class _Groups:
    """The column of images of a table, by row; the last groups that were read are kept."""

    def __init__(self, table: Table, column: str):
        self._starts = [0, *itertools.accumulate(table.lengths)]
        self._lock = threading.Lock()  # readers are of one thread

        @functools.lru_cache(maxsize=2)
        def group(i):
            return table.read(i, [column])[column].combine_chunks()

        self._group = group

    def __getitem__(self, row: int):
        """The value in a row, a pyarrow scalar."""
        i = bisect.bisect_right(self._starts, row) - 1
        with self._lock:
            found = self._group(i)
        return found[row - self._starts[i]]


def _content(groups: _Groups, row: int, folder: pathlib.Path) -> bytes:
    """The image file in a row, or the one that it names."""
    import pyarrow as pa

    value = groups[row]
    path = None
    if pa.types.is_struct(value.type):
        path = value["path"].as_py() if value.type.get_field_index("path") >= 0 else None
        value = value["bytes"]
    if value.is_valid:
        buffer = value.as_buffer()
        check_bytes(buffer.size)
        return buffer.to_pybytes()
    if not path:
        raise ValueError("has neither bytes nor a path")
    if not (folder / path).is_file():
        raise ValueError(
            f"is not in the table, which names {path}, where nothing is: write the set by "
            "save_to_disk or push_to_hub, which put images in"
        )
    return read_file(folder / path)
