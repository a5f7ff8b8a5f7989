"""Downloads official files, resumably and checked by checksum, and unpacks archives safely."""

from __future__ import annotations

import hashlib
import http.client
import re
import tarfile
import urllib.error
import urllib.request
import zipfile
from pathlib import Path

from tqdm import tqdm

from tfrec_limaml.errors import LimamlError
from tfrec_limaml.wording import counted

_BLOCK = 1 << 18
_TIMEOUT = 30.0  # seconds without any data


def fetch(url: str, folder: Path, checksum: str) -> Path:
    """Downloads a file, unless a copy with the right checksum exists.

    The bytes are written to ``<name>.part``; a second call continues where the first stopped. The
    file gets its name only if its checksum is right.

    Args:
        url: Where the file is.
        folder: Folder to write to.
        checksum: The published md5 or sha256 in hexadecimal, or the address of a text that contains
            it.

    Returns:
        Path of the file.

    Raises:
        LimamlError: The server cannot be reached, does not have the file, or sends other bytes than
            published.
    """
    target = folder / url.rsplit("/", 1)[-1]
    part = target.with_name(target.name + ".part")
    folder.mkdir(parents=True, exist_ok=True)
    expected = checksum if "://" not in checksum else _published_checksum(checksum)
    kind = "sha256" if len(expected) == 64 else "md5"
    if target.is_file() and _digest(target, kind) == expected:
        return target
    _receive(url, part)
    actual = _digest(part, kind)
    if actual != expected:
        part.unlink()
        raise LimamlError(
            f"the download of {url} has {kind} {actual}, expected {expected}; it was removed, try "
            "again"
        )
    part.replace(target)
    return target


def unpack(archive: Path, folder: Path) -> None:
    """Unpacks a ``.tar.gz`` or ``.zip`` into `folder`.

    Raises:
        LimamlError: The archive is damaged, or a member would be written outside `folder`.
    """
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as zip_file:
                for name in zip_file.namelist():
                    if not (folder / name).resolve().is_relative_to(folder.resolve()):
                        raise LimamlError(
                            f"{archive}: the member {name!r} points outside the folder; not "
                            "unpacked"
                        )
                zip_file.extractall(folder)
        else:
            with tarfile.open(archive) as tar_file:
                tar_file.extractall(folder, filter="data")
    except (tarfile.TarError, zipfile.BadZipFile, EOFError) as error:
        raise LimamlError(f"cannot unpack {archive}: {error}") from error


def _receive(url: str, part: Path) -> None:
    have = part.stat().st_size if part.is_file() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT) as response:
            # A server that ignores Range answers 200 with the whole file: start over.
            resumed = response.status == http.client.PARTIAL_CONTENT
            length = response.headers.get("Content-Length")
            begin = have if resumed else 0
            with (
                part.open("ab" if resumed else "wb") as file,
                tqdm(
                    total=None if length is None else begin + int(length),
                    initial=begin,
                    unit="B",
                    unit_scale=True,
                    desc=part.name.removesuffix(".part"),
                    disable=None,
                ) as bar,
            ):
                while block := response.read(_BLOCK):
                    file.write(block)
                    bar.update(len(block))
        if length is not None and part.stat().st_size < begin + int(length):
            raise LimamlError(
                f"the download of {url} stopped after {counted(part.stat().st_size, 'byte')}; run "
                "the same command again to continue"
            )
    except urllib.error.HTTPError as error:
        if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
            return  # all bytes were already there; the checksum decides
        raise LimamlError(
            f"cannot download {url}: HTTP {error.code} {error.reason}; download it by hand and "
            f"pass its folder with --data-dir"
        ) from error
    except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
        reason = getattr(error, "reason", error)
        raise LimamlError(
            f"cannot download {url}: {reason}; run the same command again to continue, or "
            "download it by hand and name the folder that holds it with --data-dir"
        ) from error


def _published_checksum(url: str) -> str:
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT) as response:
            text = response.read(4096).decode("ascii", "replace")
    except (urllib.error.URLError, OSError) as error:
        raise LimamlError(
            f"cannot read the published checksum {url}: {error}; try again, or name the folder "
            "that holds the unpacked data set with --data-dir"
        ) from error
    match = re.search(r"\b(?:[0-9a-f]{64}|[0-9a-f]{32})\b", text, re.IGNORECASE)
    if match is None:
        raise LimamlError(f"{url} holds no md5 or sha256 checksum, received {text[:80]!r}")
    return match.group().lower()


def _digest(path: Path, kind: str) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(
            file, lambda: hashlib.new(kind, usedforsecurity=False)
        ).hexdigest()
