"""Outputs appear completely or not at all: written under a temporary name, checked, renamed."""

from __future__ import annotations

import contextlib
import fcntl
import glob
import re
import shutil
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from apache_beam.io.filesystem import BeamIOError, CompressionTypes
from apache_beam.io.filesystems import FileSystems

from limaml_beam.io import files, s3
from tfrec_limaml.errors import LimamlError
from tfrec_limaml.tasks.folder import DEAD_LETTERS, SCHEMA_FILE

_LOCK = ".lock"
_INCOMPLETE = re.compile(r"\.partial-[0-9a-f]{8}$")
#: In every finished output of the embedding job.
REPORT_FILE = "report.json"
#: On object stores, these files are renamed last and removed first. Readers open one of them before
#: anything else, and refuse an output without it.
MARKERS = (SCHEMA_FILE, REPORT_FILE)


def check_free(output: str, overwrite: bool, marker: str, inputs: Iterable[str] = ()) -> None:
    """Raises `LimamlError` if the output exists and may not be replaced.

    Args:
        output: The folder to write.
        overwrite: Whether an earlier output may be replaced. No other folder is: a wrong name would
            remove data that cannot be recreated.
        marker: A file that only outputs of this kind have. It is not asked for on object stores,
            where a killed run may have removed it.
        inputs: Files and folders that the run reads; they must not be removed with the output.
    """
    if not files.exists(output) or _is_empty_folder(output):
        return
    if not overwrite:
        raise LimamlError(
            f"{output} exists; give --overwrite (in Python overwrite=True) to replace it, or "
            "another --output"
        )
    folder = files.join(output, "")
    inside = next((path for path in inputs if files.join(path, "").startswith(folder)), None)
    if inside is not None:
        raise LimamlError(f"{output} holds the input {inside}: give another --output")
    if (
        files.has_folders(output)
        and not files.exists(files.join(output, marker))
        and (files.matching(output, "**") or not files.exists(folder))
    ):
        raise LimamlError(
            f"{output} is not the output of an earlier run (no {marker} in it), so --overwrite "
            "does not replace it: give another --output, or remove it yourself"
        )


def _is_empty_folder(output: str) -> bool:
    path = Path(output)
    return files.is_local(output) and path.is_dir() and not any(path.iterdir())


def staging_of(output: str) -> str:
    """A fresh name beside the output."""
    return _temporary_name(output, "partial")


def launched_of(output: str) -> str:
    """Where a launched job writes until it is finished."""
    return f"{output.rstrip('/')}.launched"


def _temporary_name(output: str, kind: str) -> str:
    return f"{output.rstrip('/')}.{kind}-{uuid.uuid4().hex[:8]}"


@contextlib.contextmanager
def hold_lock(staging: str, output: str) -> Iterator[None]:
    """Holds a lock beside a local output, and removes the files of dead processes there."""
    if not files.is_local(staging):
        yield
        return
    _remove_files_of_dead_runs(Path(output))
    Path(staging).mkdir(parents=True)
    new = Path(staging, f"{_LOCK}.new")
    with new.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        new.rename(new.with_name(_LOCK))  # the lock file is locked from the start
        yield
    Path(output, _LOCK).unlink(missing_ok=True)


def _remove_files_of_dead_runs(output: Path) -> None:
    """Removes folders of dead processes beside an output, and leftovers of an overwrite."""
    name = glob.escape(output.name)
    for lock in output.parent.glob(f"{name}.partial-*/{_LOCK}"):
        # The lock of a living run cannot be taken; a run that has just ended has removed it.
        with contextlib.suppress(OSError), lock.open() as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(lock.parent, ignore_errors=True)
    if output.exists():
        for old in output.parent.glob(f"{name}.old-*"):
            shutil.rmtree(old, ignore_errors=True)


def remove_partial_outputs(output: Path) -> None:
    """Removes all files of killed runs beside a local output; no other run may write to it."""
    name = glob.escape(output.name)
    for kind in ("partial", "old"):
        for path in output.parent.glob(f"{name}.{kind}-*"):
            shutil.rmtree(path, ignore_errors=True)


def publish(staging: str, output: str) -> None:
    """Renames the staged files to the output, and removes what `keep_dead_letters` kept before.

    If folders can be renamed, a former output is moved away first and removed last. On object
    stores the former output is removed, then files are renamed one by one, the marker last.
    """
    output = output.rstrip("/")
    if files.has_folders(output):
        _rename_folder(staging, output)
        if files.is_local(output):
            shutil.rmtree(_rejected_of(output), ignore_errors=True)
        return
    discard(output)
    marker, other_files = _split_off_marker(staging)
    for group in (other_files, marker):
        FileSystems.rename(
            group, [files.join(output, path[len(staging) :].lstrip("/")) for path in group]
        )


def keep_dead_letters(staging: str, output: str) -> str | None:
    """Moves the dead letters of a failed local run to ``<output>.rejected``.

    They stay until a run to the same output succeeds.

    Returns:
        That folder; None without dead letters.
    """
    letters = Path(staging) / DEAD_LETTERS
    if not files.is_local(output) or not letters.is_dir() or not any(letters.glob("*.jsonl")):
        return None
    rejected = _rejected_of(output)
    shutil.rmtree(rejected, ignore_errors=True)
    letters.rename(rejected)
    return str(rejected)


def _rejected_of(output: str) -> Path:
    return Path(f"{output.rstrip('/')}.rejected")


def discard(directory: str) -> None:
    """Removes a directory, if it exists; on object stores its marker first."""
    if files.is_local(directory):
        shutil.rmtree(directory, ignore_errors=True)
    elif files.has_folders(directory):
        FileSystems.delete([directory] if FileSystems.exists(directory) else [])
    else:
        for group in _split_off_marker(directory):
            FileSystems.delete(group)


def _rename_folder(staging: str, output: str) -> None:
    old = _temporary_name(output, "old")
    parent = FileSystems.split(output)[0]
    if not FileSystems.exists(parent):
        FileSystems.mkdirs(parent)
    if FileSystems.exists(output):
        FileSystems.rename([output], [old])
    FileSystems.rename([staging], [output])
    discard(old)


def _split_off_marker(directory: str) -> tuple[list[str], list[str]]:
    paths = files.matching(directory, "**")
    marker = [path for path in paths if path in {files.join(directory, name) for name in MARKERS}]
    return marker, [path for path in paths if path not in marker]


def _delete_if_there(path: str) -> None:
    """Removes a file that may not have been created: the error of its creation matters more."""
    with contextlib.suppress(BeamIOError, OSError):
        FileSystems.delete([path])


@contextlib.contextmanager
def staged_file(path: str) -> Iterator[Any]:
    """A file under a temporary name, which is renamed at the end.

    A retried or duplicated bundle leaves one complete file. The temporary name begins with a dot:
    if the process is killed, no pattern for outputs matches the incomplete file.
    """
    folder, slash, name = path.rpartition("/")  # of a bare name and of a file of the root, ""
    if folder and files.has_folders(path) and not FileSystems.exists(folder):
        with contextlib.suppress(BeamIOError, OSError):  # another worker made it first
            FileSystems.mkdirs(folder)
    staging = _temporary_name(f"{folder}{slash}.{name}", "partial")
    with contextlib.ExitStack() as on_failure:
        on_failure.callback(_delete_if_there, staging)
        with (
            s3.errors_as_os_errors(),
            FileSystems.create(staging, compression_type=CompressionTypes.UNCOMPRESSED) as handle,
        ):
            yield handle
        on_failure.pop_all()
    # Renaming replaces an existing file, except on HDFS.
    if not files.is_local(path) and files.has_folders(path) and FileSystems.exists(path):
        FileSystems.delete([path])
    FileSystems.rename([staging], [path])


def is_incomplete(path: str) -> bool:
    """Whether a file has a temporary name of `staged_file`, also of earlier releases."""
    return _INCOMPLETE.search(path) is not None


def write_file(path: str, content: bytes) -> None:
    """Writes a file as `staged_file` does."""
    with staged_file(path) as handle:
        handle.write(content)
