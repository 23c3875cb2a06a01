"""DuckDB within this process, behind Ibis: bounded in memory and threads, and with errors that people can read."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

from p2pfill.errors import ConfigError, StoreError
from p2pfill.plan.history.tables import Table, load_ibis

ERROR_CHARS_MAX: Final = 200
"""Of an error of the library that is shown: its first lines say what it is, the others give its own advice."""


@dataclass(frozen=True, slots=True)
class Resources:
    """What may be taken of the machine."""

    memory_bytes: int = 3 << 30
    """That DuckDB may take before it writes to disk. The process takes up to a gigabyte more."""
    threads: int = 0
    """0: one for each processor."""


class LogError(ConfigError):
    """A file cannot be read as what it should be."""


class Engine:
    """A connection, and what of it only DuckDB has. Made by `open_engine`."""

    def __init__(self, connection: Any) -> None:
        self.ibis = connection

    def fetch(self, table: Table) -> list[dict[str, Any]]:
        """Return the few rows of a table."""
        return cast(list[dict[str, Any]], table.to_pyarrow().to_pylist())

    def rows_of(self, statement: str) -> list[tuple[Any, ...]]:
        """Run SQL that Ibis has no word for."""
        return cast(list[tuple[Any, ...]], self.ibis.con.execute(statement).fetchall())

    def parquet(self, name: str, files: Sequence[Path], **options: Any) -> Table:
        """Return Parquet files as one table, which is read when it is needed."""
        return self.ibis.read_parquet([str(file) for file in files], table_name=name, **options)

    def keep(self, name: str, table: Table, *, is_for_now: bool = False) -> Table:
        """Compute a table now, and return it as one on disk, in place of any that had its name.

        One that is for now stays in memory as far as there is room: it is written without the search for the best
        compression, which takes longer than to read it a few times.
        """
        self.drop(name)
        return self.ibis.create_table(name, table, temp=is_for_now)

    def drop(self, name: str) -> None:
        """Remove a table, where it is."""
        # Ibis 12 writes a DROP without the name where sqlglot is of version 30.
        self.rows_of(f'DROP TABLE IF EXISTS "{name}"')

    def load(self, name: str, columns: Mapping[str, Iterable[str] | Iterable[int]]) -> Table:
        """Return columns of text, or of numbers of 32 bits where their name says so (`fid`), as a table on disk."""
        arrow = importlib.import_module("pyarrow")
        arrays = {
            key: arrow.array(list(values), arrow.int32() if key.endswith("id") else arrow.string())
            for key, values in columns.items()
        }
        self.drop(name)
        self.ibis.con.register("arrow_rows", arrow.table(arrays))
        self.rows_of(f'CREATE TABLE "{name}" AS FROM arrow_rows')
        self.ibis.con.unregister("arrow_rows")
        return self.ibis.table(name)


DEFAULT: Final = Resources()


@contextmanager
def open_engine(scratch: Path, resources: Resources) -> Iterator[Engine]:
    """Open DuckDB with a database of its own in a directory, which is the caller's to remove.

    Raises `ConfigError` where the libraries are not installed, and `StoreError` where memory or disk do not do.
    """
    ibis = load_ibis()
    with library_errors("cannot go on", StoreError):
        settings: dict[str, Any] = {
            "memory_limit": f"{max(resources.memory_bytes >> 20, 256)}MiB",
            "temp_directory": str(scratch / "spill"),
            "autoinstall_known_extensions": False,
        }
        if resources.threads:
            settings["threads"] = resources.threads
        connection = ibis.duckdb.connect(scratch / "scratch.duckdb", **settings)
    try:
        connection.con.execute("SET TimeZone = 'UTC'")
        connection.con.execute("SET enable_progress_bar = false")
        # Tables of names stand on the right of each join. How long a CSV file is DuckDB does not know: left to choose,
        # it takes the log for the smaller side and gathers it in memory.
        connection.con.execute("SET disabled_optimizers = 'join_order,build_side_probe_side'")
        with warnings.catch_warnings():
            # Ibis 12 calls what DuckDB 2 has given another name.
            warnings.filterwarnings("ignore", "fetch_(arrow|record_batch)", DeprecationWarning)
            yield Engine(connection)
    finally:
        connection.disconnect()


@contextmanager
def library_errors(doing: str, kind: Callable[[str], Exception]) -> Iterator[None]:
    """Turn errors of the libraries into `kind`, with one line; what memory or disk refuse becomes `StoreError`."""
    duckdb, ibis = importlib.import_module("duckdb"), load_ibis()
    arrow = importlib.import_module("pyarrow")
    try:
        yield
    except duckdb.InterruptException as error:
        raise KeyboardInterrupt from error
    except duckdb.OutOfMemoryException as error:
        raise StoreError(f"{doing}: memory does not do; allow more of it, or fewer threads: {_line(error)}") from error
    except (duckdb.Error, ibis.common.exceptions.IbisError, arrow.ArrowException) as error:
        if "No space left" in str(error) or "max_temp_directory_size" in str(error):
            raise StoreError(f"{doing}: the disk is full: {_line(error)}") from error
        raise kind(f"{doing}: {_line(error)}") from error


def _line(error: Exception) -> str:
    text = " ".join(str(error).split("\n\n")[0].split())
    return text if len(text) <= ERROR_CHARS_MAX else text[:ERROR_CHARS_MAX] + "…"


def quoted(text: str) -> str:
    """Return text as SQL writes it."""
    return "'" + text.replace("'", "''") + "'"
