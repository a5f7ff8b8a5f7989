"""Hypothesis strategies for files with arbitrary content."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from hypothesis import strategies as st

from tfrec_limaml.datasets.text_format import TextFormat

COLUMNS = ("y", "t", "u", "w", "c", "n", "i", "s", "v", "m")
DEFAULT = TextFormat()
START = 1_704_067_200_000

texts = st.text(max_size=4) | st.sampled_from(
    [
        "",
        "NULL",
        "nan",
        "inf",
        "1e400",
        "1_0",
        "+5",
        "007",
        "true",
        "2024-01-02",
        '"',
        "a|b",
        "[1,2]",
    ]
)
times = st.integers(START, START + 10 * 86_400_000)
good = {
    "y": st.sampled_from(["0", "1", "true"]),
    "t": times.map(str),
    "u": st.integers(0, 5).map(str),
}
cells = {name: st.one_of(good.get(name, texts), texts, st.integers().map(str)) for name in COLUMNS}


@st.composite
def csv_files(draw):
    """A CSV file in which most rows are valid: its bytes, and its text format."""
    separator = draw(st.sampled_from([",", ";", "\t", "|", "\x01", " "]))
    chosen = separator if separator not in ",;\t" or draw(st.booleans()) else None
    words = tuple(draw(st.lists(texts, max_size=2)))
    lines = [separator.join(COLUMNS)]
    for _ in range(draw(st.integers(0, 12))):
        row = [draw(cells[name]) for name in COLUMNS]
        row = [
            f'"{cell.replace(chr(34), chr(34) * 2)}"' if draw(st.booleans()) else cell
            for cell in row
        ]
        lines.append(separator.join(row) + draw(st.sampled_from(["", "", "", separator])))
    content = draw(st.sampled_from(["\n", "\r\n"])).join(lines).encode("utf-8", "surrogatepass")
    content += draw(st.sampled_from([b"", b"\n", b"\xff", b"\n\n"]))
    return content, TextFormat(chosen, words)


def arrow_columns(rows):
    kinds = st.sampled_from(
        [
            pa.int64(), pa.uint64(), pa.int8(), pa.float64(), pa.float16(), pa.bool_(), pa.string(),
            pa.large_string(), pa.binary(), pa.binary(16), pa.date32(), pa.timestamp("ns"),
            pa.timestamp("s", tz="UTC"), pa.time64("us"), pa.duration("s"), pa.decimal128(38, 2),
            pa.list_(pa.float64()), pa.list_(pa.string()), pa.list_(pa.float32(), 2),
            pa.list_(pa.int64()), pa.large_list(pa.string()), pa.list_(pa.list_(pa.string())),
            pa.struct([("a", pa.int64())]), pa.map_(pa.string(), pa.int64()), pa.null(),
            pa.dictionary(pa.int8(), pa.string()),
        ]
    )  # fmt: skip
    return kinds.flatmap(lambda kind: st.lists(value_of(kind), min_size=rows, max_size=rows).map(
        lambda values: pa.array(values, kind.value_type).dictionary_encode()
        if pa.types.is_dictionary(kind) else pa.array(values, kind)
    ))  # fmt: skip


def value_of(kind):
    if pa.types.is_dictionary(kind):
        return value_of(kind.value_type)
    if pa.types.is_integer(kind):
        low, high = (
            (0, 2**kind.bit_width)
            if "u" in str(kind)
            else (-(2 ** (kind.bit_width - 1)), 2 ** (kind.bit_width - 1))
        )
        base = st.integers(low, high - 1) | st.integers(0, 1)
    elif pa.types.is_floating(kind):
        base = (st.floats(width=16) if kind == pa.float16() else st.floats()).map(
            np.float16 if kind == pa.float16() else float
        )
    elif pa.types.is_boolean(kind):
        base = st.booleans()
    elif pa.types.is_fixed_size_binary(kind):
        base = st.binary(min_size=16, max_size=16)
    elif pa.types.is_binary(kind):
        base = st.binary(max_size=4)
    elif pa.types.is_string(kind) or pa.types.is_large_string(kind):
        base = st.text(st.characters(codec="utf-8"), max_size=4)
    elif pa.types.is_date(kind):
        base = st.dates()
    elif pa.types.is_temporal(kind):
        high = 86_399_999_999 if pa.types.is_time(kind) else 2**42
        base = st.integers(0 if pa.types.is_time(kind) else -high, high)
    elif pa.types.is_decimal(kind):
        base = st.decimals(-(10**30), 10**30, places=2)
    elif pa.types.is_fixed_size_list(kind):
        base = st.lists(st.floats(width=32), min_size=2, max_size=2)
    elif pa.types.is_list(kind) or pa.types.is_large_list(kind):
        base = st.lists(value_of(kind.value_type), max_size=3)
    elif pa.types.is_struct(kind):
        base = st.fixed_dictionaries({"a": st.integers(0, 9)})
    elif pa.types.is_map(kind):
        base = st.lists(
            st.tuples(st.text("ab", min_size=1, max_size=2), st.integers(0, 9)), max_size=2
        )
    else:
        base = st.none()
    return st.none() | base


@st.composite
def parquet_tables(draw):
    """A table with columns of any type; label and time are often valid."""
    rows = draw(st.integers(0, 8))
    columns = {name: draw(arrow_columns(rows)) for name in COLUMNS}
    if draw(st.booleans()):
        columns["y"] = pa.array([n % 2 for n in range(rows)])
        columns["t"] = pa.array([START + n * 86_400_000 for n in range(rows)])
    return pa.table(columns)
