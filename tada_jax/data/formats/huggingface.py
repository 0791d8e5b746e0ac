"""Tables of images as Hugging Face's datasets writes them: parquet, and arrow of `save_to_disk`.

A column of images is a struct {bytes, path}, of which either may be null, or plain binary; names
of classes are in the schema, under `huggingface`. Whatever else lies in a table is named.
"""

import bisect
import collections
import contextlib
import dataclasses
import functools
import itertools
import os
import pathlib
import threading
from collections.abc import Callable
from typing import Any

from tada_jax.data import splits
from tada_jax.data.labels import LABEL_COLUMNS, Told
from tada_jax.data.names import Place, check_bytes, parse_json, read_file
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
    lies_in: Callable[[str], Place | None]


def find(folder: pathlib.Path, files: list[str]) -> list[str]:
    """Those of the files of a folder that are tables of a set.

    Beside the arrow files of `save_to_disk`, which it lists, the library may keep intermediate
    results.
    """
    listed = {}  # folder -> its tables
    for state in (name for name in files if name.rpartition("/")[2] == _STATE):
        root = os.path.dirname(state)
        if not any(name.endswith(".arrow") and os.path.dirname(name) == root for name in files):
            continue  # of something else
        try:
            some = parse_json((folder / state).read_text())["_data_files"]
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
    places, of_each, lies_in, columns = {}, {}, {}, {}
    for file in sorted(split):
        place = Place(files[file], files[file].stat())
        try:
            with _one_reason():
                table = _open(files[file])
                columns[file] = _columns(table.schema)
                labels = _labels(table, columns[file])
                whole = table.holds(columns[file].image)
        except ValueError as error:
            raise UserError(f"data.path={path}: {file} {error}") from error
        groups = _Groups(table, columns[file].image)
        lies_in[groups] = place if whole else None
        prefix = f"{split[file]}/{file}" if split[file] else file
        for row in range(sum(table.lengths)):
            name = f"{prefix}:{row:07}"
            places[name] = groups, row, files[file].parent
            of_each[name] = None if labels is None else labels[row]
    if not places:
        raise UserError(f"data.path={path}: its tables have no rows")
    label, names = _agreed(path, columns)
    others = sorted(set().union(*(found.others for found in columns.values())))
    if others:
        said.append(f"left out: columns {', '.join(others)}")
    clause = _clause(label, names, of_each)
    if clause.startswith("no classes"):
        of_each = {}
    told = Told(of_each, clause, names)
    return Rows(
        sorted(places),
        lambda name: _content(*places[name]),
        told,
        tuple(said),
        lambda name: lies_in[places[name][0]],
    )


@contextlib.contextmanager
def _one_reason():
    """Turns what pyarrow raises of damaged and odd tables into a ValueError."""
    try:
        yield
    except Exception as error:
        text = " ".join(str(error).split())[:200] or type(error).__name__
        ours = type(error) is ValueError and not isinstance(error, UnicodeError)
        if not ours:
            text = f"is damaged, cut short or no table ({text[:150]}): fetch it again"
        raise ValueError(text) from error


def _agreed(path, columns: dict[str, Columns]) -> tuple[str | None, tuple[str, ...]]:
    """(the column of labels, names of the classes) of all tables; one may have no labels.

    Raises:
      UserError: naming two tables that differ.
    """
    labelled = {file: found for file, found in columns.items() if found.label}
    for which, facts in (
        ("columns of images", {file: found.image for file, found in columns.items()}),
        ("columns of labels", {file: found.label for file, found in labelled.items()}),
        ("names of classes", {file: found.names for file, found in labelled.items()}),
    ):
        first = next(iter(facts), None)
        other = next((file for file, value in facts.items() if value != facts[first]), None)
        if other is not None:
            raise UserError(
                f"data.path={path}: {first} and {other} have different {which} "
                f"({str(facts[first])[:60]} and {str(facts[other])[:60]}): write them as one set"
            )
    if not labelled:
        return None, ()
    found = next(iter(labelled.values()))
    return found.label, found.names


def _clause(label: str | None, names: tuple[str, ...], of_each: dict[str, str | None]) -> str:
    """What is said of the labels of all rows."""
    if label is None:
        return "no classes, since no column of labels is known"
    known = {found for found in of_each.values() if found is not None}
    if not known:
        return f"no classes, since the column {label!r} is empty"
    if not names and len(known) > max(2, len(of_each) // 2):
        return (
            f"no classes, since {label!r} has {len(known):,} values in {len(of_each):,} rows: "
            "numbers, no classes"
        )
    return f"classes by the column {label!r}"


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
    return _parquet(file) if file.suffix.lower() == ".parquet" else _arrow(file)


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
        count, batch = opened.num_record_batches, opened.get_batch
    except pa.ArrowInvalid:  # as streams, which save_to_disk writes
        source.seek(0)
        opened = pa.ipc.open_stream(source)
        batches = list(opened)  # mapped, unless they are compressed
        # One that was cut between two batches is read as if it were whole.
        source.seek(max(0, source.size() - len(_END)))
        if source.read() != _END:
            raise pa.ArrowInvalid("no mark of its end") from None
        count, batch = len(batches), batches.__getitem__

    def read(group, columns):
        return pa.Table.from_batches([batch(group)]).select(columns)

    def holds(column):
        for i in range(count):
            array = batch(i).column(column)
            array = array.field("bytes") if pa.types.is_struct(array.type) else array
            if array.null_count:
                return False
        return True

    return Table(opened.schema, [len(batch(i)) for i in range(count)], read, holds)


def _features(schema) -> dict[str, Any]:
    """What `datasets` says of each column, by its name; {} where nothing says it."""
    try:
        found = parse_json((schema.metadata or {})[b"huggingface"])["info"]["features"]
    except (KeyError, TypeError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _columns(schema) -> Columns:
    import pyarrow as pa

    features, names = _features(schema), list(schema.names)
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise ValueError(f"has several columns called {', '.join(sorted(twice))}: rename them")

    def is_kind(name, kind):
        return isinstance(features.get(name), dict) and features[name].get("_type") == kind

    def holds_files(name):
        kind = schema.field(name).type
        if pa.types.is_struct(kind):
            inside = kind.get_field_index("bytes")
            whole = inside >= 0 and kind.field(inside).type
            return bool(whole) and (_is_bytes(whole) or pa.types.is_null(whole))
        return _is_bytes(kind)

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
    of_label = features[label].get("names") or () if label in numbered else ()
    if not all(isinstance(name, str) for name in of_label) or len(set(of_label)) < len(of_label):
        raise ValueError(f"has names of classes in {label!r} that are no different texts")
    others = tuple(name for name in names if name not in (image, label))
    return Columns(image, label, tuple(of_label), others)


def _short(schema, names) -> str:
    return str(schema.field(names[0]).type)[:60]


def _rank(name, known) -> int:
    return known.index(name) if name in known else len(known)


def _is_bytes(kind) -> bool:
    import pyarrow as pa

    return kind in (pa.binary(), pa.large_binary(), pa.binary_view())


def _is_scalar(schema, name) -> bool:
    """Whether a column may hold labels; of floats those that are whole do, as pandas has them."""
    import pyarrow as pa

    kind = schema.field(name).type
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    texts = (pa.string(), pa.large_string(), pa.string_view())
    return (
        kind in texts
        or pa.types.is_integer(kind)
        or pa.types.is_boolean(kind)
        or pa.types.is_floating(kind)
    )


def _as_text(label) -> str | None:
    if isinstance(label, float):
        if label != label:  # what is missing, in pandas
            return None
        label = int(label) if label.is_integer() else label
    return None if label is None else str(label)


def _labels(table: Table, columns: Columns) -> list[str | None] | None:
    """The class of every row as text, None where it has none; None without a column of labels."""
    if columns.label is None:
        return None
    groups = (table.read(i, [columns.label])[columns.label] for i in range(len(table.lengths)))
    found = list(itertools.chain.from_iterable(group.to_pylist() for group in groups))
    if not columns.names:
        return [_as_text(label) for label in found]
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
            return table.read(i, [column])[column]

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

    with _one_reason():
        value, path = groups[row], None
        if pa.types.is_struct(value.type):
            path = value["path"].as_py() if value.type.get_field_index("path") >= 0 else None
            value = value["bytes"]
        content = value.as_py() if value.is_valid else None
    if content is not None:
        check_bytes(len(content))
        return content
    if not isinstance(path, str) or not path:
        raise ValueError("has neither bytes nor a path")
    file = folder / path
    if not file.is_file() or not file.resolve().is_relative_to(folder.resolve()):
        raise ValueError(
            f"is not in the table, which names {path}, and there is no such file below its folder: "
            "write the set by save_to_disk or push_to_hub, which put images in"
        )
    return read_file(file)
