"""The version lock: the model version that requests are pinned to, and its manifest.

The server's newest version, or the one behind a label, changes while a client runs. If requests
named the model only, a roll-out between look-up and scoring would mix the embedding of one version
with the model of another. Therefore a label is first resolved to a number, and every scoring
request is pinned to that number.
"""

from __future__ import annotations

import dataclasses
import threading
import time
from pathlib import Path

import numpy as np

from limaml_serving.client.columns import RowReader
from limaml_serving.client.predict_request import RequestWriter
from tfrec_limaml.errors import LimamlError, VersionMismatchError
from tfrec_limaml.manifest import Manifest, latest_version, read_digest
from tfrec_limaml.schema.schema import Schema
from tfrec_limaml.schema.task_keys import joint_key_prefix
from tfrec_limaml.version_folders import version_number


@dataclasses.dataclass(frozen=True, kw_only=True)
class KnownVersion:
    """The readers and writers of requests to one model version, built from its manifest once.

    Attributes:
        version: The model version.
        reader: Checks requests against its inputs and the columns of its task keys.
        writer: Writes requests to it.
        embedding_dim: Width ``D`` of its meta embeddings.
        digest: Digest of the manifest's file; empty if the manifest was given without a file.
    """

    version: int
    reader: RowReader
    writer: RequestWriter
    embedding_dim: int
    digest: str

    @classmethod
    def from_manifest(cls, manifest: Manifest, digest: str) -> KnownVersion:
        """Reads a manifest."""
        schema = Schema.from_dict(manifest.schema)
        definitions = (manifest.task_definition, *manifest.further_definitions)
        prefixes = [
            joint_key_prefix(name) if name in manifest.joint_definitions else ""
            for name in definitions
        ]
        return cls(
            version=manifest.model_version,
            reader=RowReader(
                schema.all_features, [schema.task_columns(name) for name in definitions], prefixes
            ),
            writer=RequestWriter(
                schema.all_features,
                manifest.embedding_dim,
                manifest.further_definitions,
                manifest.outputs,
            ),
            embedding_dim=manifest.embedding_dim,
            digest=digest,
        )


class KnownVersions:
    """The model versions whose manifests a client has.

    Args:
        source: A manifest, or its file; or the folder of one exported version; or a folder of
            versions (``EXPORT/ranker``); or an export (``EXPORT``). In a folder of versions, later
            ones are found as they appear.

    Raises:
        VersionMismatchError: `source` holds no manifest.
    """

    def __init__(self, source: Manifest | str | Path) -> None:
        self._base: Path | None = None
        self._known: dict[int, KnownVersion] = {}
        if isinstance(source, Manifest):
            self._add(source, "")
            return
        path = Path(source)
        if path.is_file():
            self._read(path.parent.parent)
            return
        if version_number(path.name) is not None and not (path / "ranker").is_dir():
            self._read(path)
            return
        self._base = path / "ranker" if (path / "ranker").is_dir() else path
        self._read(latest_version(self._base))

    def get(self, version: int) -> KnownVersion | None:
        """The known version with this number, or None."""
        if (
            version not in self._known
            and self._base is not None
            and (self._base / str(version)).is_dir()
        ):
            self._read(self._base / str(version), version)
        return self._known.get(version)

    @property
    def newest(self) -> KnownVersion:
        """The highest version known."""
        return self._known[max(self._known)]

    def _read(self, folder: Path, version: int | None = None) -> None:
        manifest = Manifest.read(folder)
        if version not in (None, manifest.model_version):
            raise VersionMismatchError(
                f"{folder} holds the manifest of version {manifest.model_version}: folders were "
                "renamed or copied over each other; export again"
            )
        self._add(manifest, read_digest(folder))

    def _add(self, manifest: Manifest, digest: str) -> None:
        self._known[manifest.model_version] = KnownVersion.from_manifest(manifest, digest)


class VersionLock:
    """The version number that requests are pinned to.

    Args:
        version: A fixed version; ``None`` follows the server.
        label: The label to follow, for example ``"stable"``; ``None`` follows the server's newest
            version.
        refresh_seconds: How long a resolved number is trusted.
    """

    def __init__(self, version: int | None, label: str | None, refresh_seconds: float) -> None:
        if version is not None and label is not None:
            raise LimamlError(
                f"pin version or version_label, not both; received {version} and {label!r}"
            )
        if version is not None and (not isinstance(version, int | np.integer) or version < 1):
            raise LimamlError(f"version must be a positive whole number, received {version!r}")
        if label is not None and not (isinstance(label, str) and label):
            raise LimamlError(f"version_label must be a label's name, received {label!r}")
        self.label = label
        self.pinned = version
        self._refresh = refresh_seconds
        self._current = version
        self._expires = float("inf") if version is not None else 0.0
        self._lock = threading.Lock()

    @property
    def current(self) -> int | None:
        """The version last resolved, fresh or not."""
        return self._current

    def claim(self) -> bool:
        """Whether the caller should resolve the version now.

        One caller at a time does; the others keep using the old number.
        """
        with self._lock:
            if time.monotonic() < self._expires:
                return False
            if self._current is not None:
                self._expires = time.monotonic() + self._refresh
            return True

    def resolved(self, version: int) -> bool:
        """Stores the answer of the server; returns whether the version changed."""
        with self._lock:
            changed = self._current is not None and version != self._current
            self._current = version
            self._expires = time.monotonic() + self._refresh
            return changed
