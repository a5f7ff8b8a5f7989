"""Format of text files, as far as it cannot be detected: options of commands that read files.

These options belong to the files of a run, not to the schema, which describes columns
independently of files.
"""

from __future__ import annotations

import codecs
import dataclasses
from collections.abc import Sequence
from typing import Any

from tfrec_limaml.errors import LimamlError

#: Default words for a missing value, in addition to an empty cell.
NULL_WORDS = ("NULL", "null")
_FORBIDDEN = '"\r\n\0'


@dataclasses.dataclass(frozen=True)
class TextFormat:
    """Settings of text files; Parquet and TFRecord files need none.

    Attributes:
        delimiter: One ASCII character between the cells of a row; None for comma, tab or semicolon,
            whichever occurs most often in the header.
        null_words: Words for a missing value, in addition to empty cells.
        quotes: Whether a cell may be in quotation marks, and then hold separators and line breaks;
            otherwise a quotation mark is a character like any other.
    """

    delimiter: str | None = None
    null_words: tuple[str, ...] = NULL_WORDS
    quotes: bool = True

    def __post_init__(self) -> None:
        delimiter = self.delimiter
        if delimiter is not None and (
            len(delimiter) != 1
            or not delimiter.isascii()
            or delimiter in _FORBIDDEN
            or delimiter.isalnum()
        ):
            raise LimamlError(
                "--delimiter must be one ASCII character that is no letter, digit, quote or line "
                f"break (\\t is a tab, \\x01 Hive's default), received {delimiter!r}"
            )


def add_text_arguments(parser: Any) -> None:
    """The options ``--delimiter``, ``--null-word`` and ``--no-quotes``."""
    parser.add_argument(
        "--delimiter",
        metavar="C",
        help=r"character between the cells of text files, e.g. '|', '\t' or '\x01' (default: "
        r"comma, tab or semicolon, whichever occurs most often in the header)",
    )
    parser.add_argument(
        "--null-word",
        dest="null_words",
        action="append",
        metavar="WORD",
        help=r"word for a missing value in text files, e.g. '\N'; empty cells are missing in any "
        "case. Repeat the option for several words. It replaces the default words, NULL and null: "
        "name them too if the files have them",
    )
    parser.add_argument(
        "--no-quotes",
        dest="quotes",
        action="store_false",
        help="a quotation mark in text files is a character like any other, as in exports of Hive "
        "(default: cells may be in quotation marks, and then hold separators and line breaks)",
    )


def text_format(
    delimiter: str | None, null_words: Sequence[str] | None, quotes: bool = True
) -> TextFormat:
    r"""The given format; a delimiter may be an escape such as ``\t``.

    Raises:
        LimamlError: The delimiter is invalid.
    """
    if delimiter is not None and delimiter.startswith("\\") and len(delimiter) > 1:
        try:
            delimiter = codecs.decode(delimiter, "unicode_escape")
        except UnicodeDecodeError as error:
            raise LimamlError(f"--delimiter {delimiter!r} is not an escape: {error}") from error
    return TextFormat(delimiter, NULL_WORDS if null_words is None else tuple(null_words), quotes)
