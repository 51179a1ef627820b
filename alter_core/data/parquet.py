"""Rows of a Parquet file, and of any Arrow table: values keep their own type until they become text."""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from alter_core.data.cells import Cells
from alter_core.data.mistaken import mistaken
from alter_core.data.packed import opened
from alter_core.data.places import File
from alter_core.data.rows import Rows, missing_column, repeated
from alter_core.data.split_column import may_say_a_split
from alter_core.errors import DataError
from alter_core.problems import listed

if TYPE_CHECKING:
    import pyarrow as pa

_ROWS = 4096  # that are held at a time


def read_parquet(file: File, columns: Iterable[str]) -> Rows:
    """Rows, numbered from 1, of some columns and of those that may say which split a row belongs to.

    Raises DataError when a column is not there or stands twice, or the file cannot be read.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    with opened(file) as stream:
        if what := mistaken(stream.peek(512)[:512], "parquet"):
            raise DataError(f"{file.name}: {what}")
        try:
            table = pq.ParquetFile(stream)
            names = table.schema_arrow.names
            if twice := repeated(names):
                raise DataError(f"{file.name}: the column {listed(twice)} stands twice; rename one")
            wanted = set(columns)
            for column in columns:
                if column not in names:
                    raise DataError(missing_column(file.name, column, names))
            read = [name for name in names if name in wanted or may_say_a_split(name)]
            number = 0
            for batch in table.iter_batches(batch_size=_ROWS, columns=read):
                for row in typed_rows(batch):
                    number += 1
                    yield number, row
        except (pa.ArrowException, pa.ArrowInvalid, UnicodeDecodeError) as error:
            reason = str(error).splitlines()[0][:200]
            raise DataError(
                f"{file.name}: is not a Parquet file that can be read: {reason}; write it again, or set source > "
                "format to what it is"
            ) from error


def typed_rows(batch: "pa.RecordBatch") -> Iterator[Cells]:
    """Rows as mappings. Python knows floats of 64 bits alone; shorter ones are given as numpy's, which keep theirs."""
    names = batch.schema.names
    for values in zip(*map(_values, batch.columns), strict=True):
        yield dict(zip(names, values, strict=True))


def _values(column: "pa.Array") -> list[Any]:
    import pyarrow as pa

    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if isinstance(column, pa.ExtensionArray):
        column = column.storage
    kind = column.type
    if pa.types.is_float16(kind) or pa.types.is_float32(kind):
        values = column.to_numpy(zero_copy_only=False).astype("float16" if pa.types.is_float16(kind) else "float32")
        return [None if gone else value for gone, value in zip(column.is_null().to_pylist(), values, strict=True)]
    if pa.types.is_timestamp(kind) and kind.unit == "ns":
        return _nanoseconds(column)
    return list(column.to_pylist())


def _nanoseconds(column: "pa.Array") -> list[Any]:
    """As the microseconds that Python knows, and as text where there is more."""
    import pyarrow as pa

    text = column.cast(pa.string()).to_pylist()
    whole = column.cast(pa.timestamp("us", column.type.tz), safe=False)
    exact = whole.cast(column.type).equals(column)
    return list(whole.to_pylist()) if exact else text
