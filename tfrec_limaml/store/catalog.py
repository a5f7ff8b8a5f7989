"""What the catalogs of both backends have in common."""

from __future__ import annotations

import abc

from tfrec_limaml.store.generation_record import Record


class Catalog(abc.ABC):
    """Records of published generations, and a pointer to the current one."""

    @abc.abstractmethod
    def current(self, model_version: int) -> Record | None:
        """The record that readers see; raises `StoreError` if it belongs to another version."""

    @abc.abstractmethod
    def records(self, model_version: int) -> list[Record]:
        """Published generations, oldest first."""

    def current_name(self, model_version: int) -> str | None:
        """The identifier of the current generation."""
        record = self.current(model_version)
        return None if record is None else record.identifier

    def records_and_current(self, model_version: int) -> tuple[list[Record], str | None]:
        """Published generations, oldest first, and the identifier of the current one."""
        return self.records(model_version), self.current_name(model_version)
