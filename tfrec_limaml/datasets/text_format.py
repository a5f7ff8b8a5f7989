"""How a text file is written, as far as nobody can see it from the file: options of the commands
that read files.

They belong to the files of one run, not to the schema, which says what the columns are, whichever
files they come from.
"""

from __future__ import annotations

import codecs
import dataclasses
from collections.abc import Sequence
from typing import Any

from tfrec_limaml.errors import LimamlError

#: What stands for no value beside an empty cell, unless others are named.
NULL_WORDS = ("NULL", "null")
_FORBIDDEN = '"\r\n\0'


@dataclasses.dataclass(frozen=True)
class TextFormat:
    """Settings of text files; Parquet and TFRecord files need none.

    Attributes:
        delimiter: One ASCII character between the cells of a row; None for the one of comma, tab
            and semicolon that the header has most of.
        null_words: Cells that stand for no value, beside empty ones.
    """

    delimiter: str | None = None
    null_words: tuple[str, ...] = NULL_WORDS

    def __post_init__(self) -> None:
        given = self.delimiter
        if given is not None and (
            len(given) != 1 or not given.isascii() or given in _FORBIDDEN or given.isalnum()
        ):
            raise LimamlError(
                "--delimiter must be one ASCII character that is no letter, digit, quote or line "
                f"break (\\t is a tab, \\x01 Hive's own), received {given!r}"
            )


def add_text_arguments(parser: Any) -> None:
    """The options ``--delimiter`` and ``--null-word``."""
    parser.add_argument(
        "--delimiter",
        metavar="C",
        help=r"character between the cells of text files, e.g. '|', '\t' or '\x01' (default: comma,"
        " tab or semicolon, whichever the header has most of)",
    )
    parser.add_argument(
        "--null-word",
        dest="null_words",
        action="append",
        metavar="WORD",
        help=r"cell of text files that stands for no value, e.g. '\N', beside an empty one; may be "
        "repeated (default: NULL and null)",
    )


def text_format(delimiter: str | None, null_words: Sequence[str] | None) -> TextFormat:
    r"""What was given; a delimiter may be an escape such as ``\t``.

    Raises:
        LimamlError: The delimiter cannot be one.
    """
    if delimiter is not None and delimiter.startswith("\\") and len(delimiter) > 1:
        try:
            delimiter = codecs.decode(delimiter, "unicode_escape")
        except UnicodeDecodeError as error:
            raise LimamlError(f"--delimiter {delimiter!r} is no escape: {error}") from error
    return TextFormat(delimiter, NULL_WORDS if null_words is None else tuple(null_words))
