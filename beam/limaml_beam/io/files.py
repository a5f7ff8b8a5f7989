"""Files and folders by path, local or on any filesystem that Beam knows (gs://, s3://, hdfs://).

There are two kinds of filesystems. Local ones and HDFS have folders, which are renamed at once. An
object store has names only: a folder is a common prefix of names, and its files are renamed one by
one.
"""

from __future__ import annotations

import contextlib
import fnmatch
import glob
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from apache_beam.io.filesystem import BeamIOError, CompressionTypes, FileSystem
from apache_beam.io.filesystems import FileSystems

from limaml_beam.io import s3
from tfrec_limaml.errors import LimamlError


def is_local(path: str) -> bool:
    """Whether a path is on this machine's filesystem."""
    return FileSystems.get_scheme(path) is None


def has_folders(path: str) -> bool:
    """Whether the path's filesystem has folders, which are renamed at once.

    Raises:
        LimamlError: Beam knows no filesystem for the path.
    """
    return bool(_filesystem(path).has_dirs())


def join(folder: str, *names: str) -> str:
    """A path below a folder."""
    return "/".join((folder.rstrip("/"), *names))


def matching(folder: str, pattern: str) -> list[str]:
    """Sorted paths below a folder that match a pattern; none if there is no folder.

    In the pattern ``*`` matches within a name, ``**`` across folders.

    Raises:
        LimamlError: The filesystem cannot be listed, or Beam knows none for the path.
    """
    filesystem = _reachable(folder)
    try:
        return sorted(file.path for file in _match(filesystem, join(glob.escape(folder), pattern)))
    except (BeamIOError, PermissionError) as error:
        reason = s3.reason_of(error)
        raise LimamlError(f"cannot list {join(folder, pattern)}: {reason}") from error


def match(pattern: str) -> list[Any]:
    """Beam's metadata (path, size, time) of the files that match a pattern.

    Names with glob characters (``run[1]/x.csv``) are taken literally if a folder or file of exactly
    this name exists.

    Raises:
        LimamlError: The filesystem cannot be listed, or Beam knows none for the path.
    """
    filesystem = _reachable(pattern)
    try:
        return _match(filesystem, _literal_names_escaped(pattern))
    except (BeamIOError, OSError, ValueError) as error:
        raise LimamlError(f"cannot list {pattern!r}: {s3.reason_of(error)}") from error


def _match(filesystem: FileSystem, pattern: str) -> list[Any]:
    """Metadata of the files that match a pattern.

    Raises:
        PermissionError: A local folder cannot be read; Beam alone would skip it.
    """
    if is_local(pattern) and glob.has_magic(pattern):
        _require_readable_folders(pattern)
    return list(filesystem.match([pattern])[0].metadata_list)


def _require_readable_folders(pattern: str) -> None:
    """Raises PermissionError if a folder that may hold matching files cannot be read."""
    root = re.split(r"[*?\[]", pattern, maxsplit=1)[0].rpartition("/")[0]

    def refuse(error: OSError) -> None:
        if isinstance(error, PermissionError) and _may_hold(str(error.filename), pattern):
            raise error

    top = root or ("/" if pattern.startswith("/") else ".")
    for folder, names, _ in os.walk(top, onerror=refuse):
        names[:] = [name for name in names if _may_hold(os.path.join(folder, name), pattern)]


def _may_hold(folder: str, pattern: str) -> bool:
    """Whether files that match a pattern may be in a folder."""
    names, patterns = folder.removeprefix("./").split("/"), pattern.split("/")
    if names[-1] == "lost+found":  # of a volume's file system; never readable
        return False
    for name, part in zip(names, patterns, strict=False):
        if "**" in part:
            return True
        if not fnmatch.fnmatchcase(name, part):
            return False
    return len(names) < len(patterns)


def match_tables(pattern: str) -> dict[str, Any]:
    """Metadata by path of the files that match a pattern or are below a matching folder."""
    by_path = {metadata.path: metadata for metadata in match(pattern)}
    if by_path and glob.has_magic(pattern):
        return by_path
    files_below = {metadata.path: metadata for metadata in match(join(pattern, "**"))}
    return files_below or by_path


def relative_to_pattern(path: str, pattern: str) -> str:
    """The part of a matched path after the folders that the pattern names without wildcards."""
    names = pattern.rstrip("/").split("/")
    fixed_count = next((n for n, name in enumerate(names) if glob.has_magic(name)), len(names))
    root = "".join(f"{name}/" for name in names[:fixed_count])
    return path[len(root) :] if path.startswith(root) else path.rsplit("/", 1)[-1]


def _literal_names_escaped(pattern: str) -> str:
    names = pattern.split("/")
    for index, name in enumerate(names):
        if glob.has_magic(name) and exists("/".join([*pattern.split("/")[:index], name])):
            names[index] = glob.escape(name)
    return "/".join(names)


def exists(path: str) -> bool:
    """Whether there is a file or a folder; raises `LimamlError` if that cannot be told."""
    filesystem = _reachable(path)
    try:
        found = bool(filesystem.exists(path))
    except OSError as error:
        raise LimamlError(f"cannot look for {path}: {s3.reason_of(error)}") from error
    return found or (not has_folders(path) and bool(matching(path, "**")))


def open_binary(path: str) -> Any:
    """A binary file for reading, as it is (no decompression by name)."""
    return FileSystems.open(path, compression_type=CompressionTypes.UNCOMPRESSED)


def read_text(path: str) -> str | None:
    """A whole text file; None if there is none. Raises `LimamlError` if it cannot be read."""
    filesystem = _reachable(path)
    try:
        if not filesystem.exists(path):
            return None
        with s3.errors_as_os_errors(), open_binary(path) as file:
            return bytes(file.read()).decode()
    except (OSError, UnicodeDecodeError) as error:
        raise LimamlError(f"cannot read {path}: {s3.reason_of(error)}") from error


def write_text(path: str, text: str) -> None:
    """Writes a text file, and creates its folders if the filesystem has folders."""
    with (
        s3.errors_as_os_errors(),
        FileSystems.create(path, compression_type=CompressionTypes.UNCOMPRESSED) as file,
    ):
        file.write(text.encode())


@contextlib.contextmanager
def local_copy(folder: str) -> Iterator[str]:
    """The folder itself if it is local; else a local copy, removed at the end of the block.

    TensorFlow opens few filesystems besides the local one, and gs:// only with an extra package;
    Beam's filesystems already hold the tasks and outputs.
    """
    if is_local(folder):
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="limaml-") as target:
        for path in matching(folder, "**"):
            local = Path(target, path[len(folder) :].lstrip("/"))
            local.parent.mkdir(parents=True, exist_ok=True)
            with open_binary(path) as source, local.open("wb") as file:
                while chunk := source.read(1 << 24):
                    file.write(chunk)
        yield target


def check_reachable(path: str) -> None:
    """Raises `LimamlError` if the path's bucket does not exist, or its server does not answer."""
    s3.check_bucket(path)


def _reachable(path: str) -> FileSystem:
    """The path's filesystem; raises `LimamlError` as `check_reachable`."""
    filesystem = _filesystem(path)
    check_reachable(path)
    return filesystem


def _filesystem(path: str) -> FileSystem:
    try:
        return FileSystems.get_filesystem(path)
    except ValueError as error:
        raise LimamlError(f"no filesystem for {path!r}: {error}") from error
