"""Rows of preference files, each with where it stands: 'file:line', or 'file:row' where there are no lines."""

import gzip
import json
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

from prefopt.datasets.rows import Problem, Report, Row, brief, stop
from prefopt.errors import PrefoptError

Splits = Mapping[str, Iterable[Row]]

FORMATS = ".jsonl, .jsonl.gz, .json, .json.gz (a list) or .parquet"
SPLIT_FILE = re.compile(r"((?:train|val|dev|test|eval)\w*)(-\d+-of-\d+)?(\.jsonl|\.json|\.parquet)(\.gz)?")


def read(path: str | Path, report: Report = stop, only: str = "train") -> Splits:
    """The splits of a file (one, called `only`), of a folder of split files or of a `datasets.save_to_disk` folder.

    A folder's files, there or else in its folder `data`, are named after their split: train.jsonl.gz,
    validation.jsonl.gz, train_prefs-00000-of-00002.parquet. Rows are read when they are asked for. What cannot be read
    as a row goes to `report`. Raises PrefoptError.
    """
    path = Path(path)
    if path.is_file():
        return {only: _rows(path, report)}
    if not path.is_dir():
        raise PrefoptError(f"dataset.path={path}: no such file or folder", "mend the path")
    if (path / "dataset_dict.json").exists() or (path / "state.json").exists():
        return _saved(path, only)
    for folder in (path, path / "data"):
        files = [(match[1], file) for file in sorted(folder.glob("*")) if (match := SPLIT_FILE.fullmatch(file.name))]
        if files:
            names = dict.fromkeys(split for split, _ in files)
            return {name: chain(*(_rows(file, report) for split, file in files if split == name)) for name in names}
    raise PrefoptError(
        f"dataset.path={path}: no file of preferences in the folder",
        f"put train.* and test.* or validation.* there, as {FORMATS}, or a folder of datasets.save_to_disk",
    )


def read_hub(name: str) -> Splits:
    """The splits of a dataset on the Hugging Face hub, or in its local cache. Raises PrefoptError."""
    import datasets

    try:
        loaded = datasets.load_dataset(name)
    except (OSError, ValueError) as error:  # offline, unknown, gated, or without data files
        raise PrefoptError(
            f"dataset.name={name}: {error}",
            "without the hub give the files by dataset.path=<file or folder>",
        ) from error
    return {split: _numbered(f"{name}[{split}]", rows) for split, rows in loaded.items()}


def _saved(path: Path, only: str) -> Splits:
    import datasets

    try:
        loaded = datasets.load_from_disk(str(path))
    except (OSError, ValueError, KeyError) as error:
        raise PrefoptError(
            f"dataset.path={path}: not a whole folder of datasets.save_to_disk ({error})", "save it again"
        ) from error
    splits = loaded if isinstance(loaded, datasets.DatasetDict) else {only: loaded}
    return {split: _numbered(f"{path}[{split}]", rows) for split, rows in splits.items()}


def _numbered(place: str, rows: Iterable[Any]) -> Iterator[Row]:
    return ((f"{place}:{number}", row) for number, row in enumerate(rows, 1))


def _rows(path: Path, report: Report) -> Iterator[Row]:
    readers: dict[str, Callable[[Path, Report], Iterator[Row]]]
    readers = {".jsonl": _jsonl, ".json": _json, ".parquet": _parquet}
    reader = readers.get(Path(path.name.removesuffix(".gz")).suffix)
    if reader is None:
        raise PrefoptError(f"dataset.path={path}: preferences are not read from such a file", f"write it as {FORMATS}")
    return reader(path, report)


def _open(path: Path) -> BinaryIO:
    return gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")  # type: ignore[return-value]


def _jsonl(path: Path, report: Report) -> Iterator[Row]:
    number = 0
    try:
        with _open(path) as lines:
            for number, line in enumerate(lines, 1):
                where = f"{path}:{number}"
                try:
                    row = json.loads(line.decode("utf-8-sig")) if line.strip() else None
                except UnicodeDecodeError as error:
                    report(_not_utf8(where, error))
                except json.JSONDecodeError as error:
                    report(
                        Problem(
                            "malformed_json",
                            where,
                            f"not JSON at column {error.colno} ({error.msg}): {brief(error.doc)}",
                            "write one JSON object a line",
                        )
                    )
                else:
                    if isinstance(row, dict):
                        yield where, row
                    elif line.strip():
                        report(_not_an_object(where, row))
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        report(_broken_gzip(f"{path}:{number + 1}", error))


def _json(path: Path, report: Report) -> Iterator[Row]:
    try:
        with _open(path) as file:
            content = file.read()
        rows = json.loads(content.decode("utf-8-sig"))
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        return report(_broken_gzip(str(path), error))
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        return report(_not_utf8(f"{path}:{line}", error))
    except json.JSONDecodeError as error:
        where = f"{path}:{error.lineno}"
        mend = "write one JSON list of objects, or name the file .jsonl where each line is an object"
        return report(Problem("malformed_json", where, f"not JSON at column {error.colno} ({error.msg})", mend))
    if not isinstance(rows, list):
        what = f"{brief(rows)} is not a list of rows"
        return report(Problem("malformed_json", f"{path}:1", what, "write one JSON list of objects"))
    for where, row in _numbered(str(path), rows):
        if isinstance(row, dict):
            yield where, row
        else:
            report(_not_an_object(where, row))


def _parquet(path: Path, report: Report) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        batches = pq.ParquetFile(path).iter_batches()
        yield from _numbered(str(path), chain.from_iterable(batch.to_pylist() for batch in batches))
    except (pa.ArrowInvalid, OSError) as error:
        report(Problem("malformed_parquet", str(path), f"not a whole Parquet file ({error})", "write it again"))
    except UnicodeDecodeError as error:
        report(_not_utf8(str(path), error))


def _not_utf8(where: str, error: UnicodeDecodeError) -> Problem:
    value = error.object[max(error.start - 20, 0) : error.end + 20]
    return Problem(
        "not_utf8",
        where,
        f"not UTF-8: byte {error.object[error.start]:#04x} in {value!r}",
        "write the file in UTF-8, as by `iconv -f latin1 -t utf-8` where it is Latin-1",
    )


def _not_an_object(where: str, row: Any) -> Problem:
    return Problem("malformed_json", where, f"{brief(row)} is not a JSON object", "write {column: value, ...} a row")


def _broken_gzip(where: str, error: Exception) -> Problem:
    return Problem("broken_gzip", where, f"not a whole gzip file ({error})", "download or compress it again")
