"""Finds a data set's official files on this machine, or downloads them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from tfrec_limaml.datasets import download
from tfrec_limaml.errors import LimamlError

#: Environment variable for the folder of data sets, used without ``--data-dir``.
DATA_DIR_VARIABLE = "LIMAML_DATA_DIR"


def default_folder() -> Path:
    """Folder for downloads: ``$LIMAML_DATA_DIR``, or else a folder in the user's cache."""
    folder = os.environ.get(DATA_DIR_VARIABLE)
    if folder:
        return Path(folder)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tfrec_limaml"


def given_or_default(data_dir: Path | None, folder_name: str) -> Path:
    """`data_dir`, or `default_folder` if it is None.

    Raises `LimamlError` if the given folder does not exist.
    """
    if data_dir is not None and not data_dir.is_dir():
        raise LimamlError(
            f"--data-dir {data_dir} is not a folder; name the one that contains {folder_name}/, "
            "or leave it out to download"
        )
    return data_dir or default_folder()


def locate(
    data_dir: Path | None, folder_name: str, complete: Callable[[Path], bool], url: str, md5: str
) -> Path:
    """The folder with the official files.

    Args:
        data_dir: The data set's own folder, or the one that contains it; ``None`` for
            `default_folder`.
        folder_name: Name of the folder in the official archive.
        complete: Returns whether a folder has all needed files.
        url, md5: The official archive and its checksum (or the checksum's address), for missing
            files.

    Raises:
        LimamlError: The folder given does not exist, or the download failed.
    """
    base = given_or_default(data_dir, folder_name)
    for candidate in (base / folder_name, base):
        if complete(candidate):
            return candidate
    download.unpack(download.fetch(url, base, md5), base)
    if not complete(base / folder_name):
        raise LimamlError(
            f"{url} was unpacked into {base}, but {base / folder_name} does not hold the expected "
            "files"
        )
    return base / folder_name
