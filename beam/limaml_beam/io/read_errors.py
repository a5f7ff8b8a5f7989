"""Opening files, and the errors that reading them may raise."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
from apache_beam.io.aws.clients.s3.messages import S3ClientError
from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.filesystems import FileSystems
from isal import igzip
from isal.igzip_lib import IsalError

from limaml_beam.io import s3
from tfrec_limaml.datasets import table_files
from tfrec_limaml.errors import LimamlError
from tfrec_limaml.wording import counted

_BROKEN_GZIP: type[Exception] = IsalError  # type: ignore[assignment]  # declared as an instance by its stub


#: Errors that reading a damaged file may raise.
READ_ERRORS: tuple[type[Exception], ...] = (
    pa.ArrowException,
    OSError,
    EOFError,
    _BROKEN_GZIP,
    UnicodeDecodeError,
    S3ClientError,
)


class SourceError(LimamlError):
    """An input file is missing, unreadable or lacks a column."""


class MissingColumnsError(SourceError):
    """An input file lacks columns."""


def unreadable(path: str, rows: int, error: BaseException) -> SourceError:
    """The error for a file that cannot be read after its first `rows` rows."""
    text = f"cannot read {path} after {counted(rows, 'row')}"
    if isinstance(error, S3ClientError):
        return SourceError(f"{text}: {s3.reason_of(error)}")
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return SourceError(
        f"{text}: {reason}; is the file complete, and is it of the format that its name says?"
    )


def open_file(path: str) -> Any:
    """A binary file of any Beam filesystem, not decompressed.

    Arrow does not accept Beam's decompressing reader as a file.
    """
    raw = FileSystems.open(path, compression_type=CompressionTypes.UNCOMPRESSED)
    if ".gz" in path.rsplit("/", 1)[-1].lower():
        return igzip.IGzipFile(fileobj=raw)
    return table_files.decompressed(path, raw)
