"""A quotation mark that is not closed does not make one cell of many rows."""

from __future__ import annotations

import io

import pytest

from tfrec_limaml.datasets.text_files import read_csv
from tfrec_limaml.datasets.text_format import TextFormat
from tfrec_limaml.errors import SchemaError

HEADER = "user,time,title,label"


def _lines(count=40):
    return [HEADER, *(f"u{number % 9},{number},text,1" for number in range(count))]


def _read(lines, columns=None, **text):
    content = "\n".join(lines).encode()
    parts = list(read_csv(lambda: io.BytesIO(content), columns, 1000, TextFormat(**text)))
    return sum(part.table.num_rows for part in parts), [row for part in parts for row in part.bad]


@pytest.mark.parametrize("columns", [None, ["user", "time"]], ids=["all columns", "some columns"])
@pytest.mark.parametrize(
    "changes",
    [
        {1: 'u,1,"27 inch,1'},
        {5: 'u,5,"27 inch,1'},
        {5: 'u,5,text,"27 inch'},
        {5: 'u,5,"27 inch,1', 30: 'u,5,"27 inch,1'},
        {5: 'u,5,"27 inch,1', 11: 'u,5,so called "text",1'},
    ],
    ids=[
        "all rows",
        "to the end",
        "in the last column",
        "to the next such cell",
        "to another cell's mark",
    ],
)
def test_a_cell_that_holds_rows_is_refused(changes, columns):
    lines = _lines()
    for line, text in changes.items():
        lines[line] = text
    with pytest.raises(SchemaError, match=r"begins with .*27 inch.* more lines, which are rows"):
        _read(lines, columns)


def test_a_malformed_row_at_the_end_of_a_file_of_several_blocks_is_examined_too(monkeypatch):
    monkeypatch.setattr("tfrec_limaml.datasets.text_files._BLOCK_BYTES", 200)
    lines = _lines()
    lines[32] = 'u,32,"27 inch,1'
    with pytest.raises(SchemaError, match="is not closed"):
        _read(lines)


def test_without_quotes_a_quotation_mark_is_a_character():
    lines = _lines()
    lines[5] = 'u,5,"27 inch,1'
    lines[30] = 'u,30,"24 inch",1'
    assert _read(lines, quotes=False) == (40, [])
    content = "\n".join(lines).encode()
    tables = [
        part.table
        for part in read_csv(lambda: io.BytesIO(content), None, 99, TextFormat(quotes=False))
    ]
    assert tables[1]["title"].to_pylist()[29] == '"24 inch"'


def test_texts_of_many_lines_are_cells():
    lines = _lines()
    lines[5] = 'u,5,"' + "One, two,\nthree, four and five, six,\nseven,\n\n" * 20 + '",1'
    lines[6] = 'u,6,"{\n' + '  ""key"": [1, 2],\n' * 20 + '}",1'
    assert _read(lines) == (40, [])


def test_empty_lines_between_rows_are_no_texts():
    assert _read([line + "\n" for line in _lines()]) == (40, [])


def test_texts_of_a_table_with_few_columns_may_have_commas():
    lines = ["item,text", *(f"i{number},short" for number in range(60))]
    lines[3] = 'i,"' + "one,two\n" * 20 + '"'
    assert _read(lines) == (60, [])
    lines[3] = 'i,"27 inch'
    with pytest.raises(SchemaError, match="is not closed"):
        _read(lines)
