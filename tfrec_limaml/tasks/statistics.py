"""Statistics of the training rows, for the preprocessing layers and data cards.

``statistics.json`` is beside the task records:

    {
      "rows": 123, "label_mean": 0.44,
      "window": {"start": 1650812741436, "end": 1651500000000},
      "features": {
        "duration_ms": {"mean": [9.1], "variance": [1.2]},
        "tab": {"vocabulary": ["1", "0"], "counts": [100, 23]}
      },
      "quality": {"filled": {"age": 0.1}, "unknown_keys": {"users": 0.02}, ...}
    }

``window`` is in milliseconds. ``mean`` and ``variance`` are taken after the feature's `normalise`
transform. A vocabulary has the most frequent token first, ties ordered by token. ``quality`` is
about all rows that were read, as on the data card; everything else is about training rows.

Numeric features have one mean and variance per vector element, in float64, of the transformed
values (``"log"``: ``sign(x) log1p|x|``); those with encoding ``quantiles`` also have ``edges``,
``component_mean`` and ``component_deviation``, see `tfrec_limaml.tasks.quantile_statistics`. Hashed
features have no entry. Vocabularies of int64 features hold integers, those of string features
strings (of single values, if the feature has a separator).
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tfrec_limaml import staging
from tfrec_limaml.errors import SchemaError
from tfrec_limaml.schema.schema import Feature


@dataclasses.dataclass(frozen=True, kw_only=True)
class Statistics:
    """Contents of ``statistics.json``; the module's docstring describes the fields."""

    rows: int
    label_mean: float
    window: Mapping[str, int]
    features: Mapping[str, Mapping[str, Any]]
    quality: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def of(self, feature: Feature) -> Mapping[str, Any]:
        """The entry of a feature; raises `SchemaError` if it is missing, or lacks quantiles."""
        entry = self.features.get(feature.name)
        if entry is None or (feature.encoding == "quantiles" and "edges" not in entry):
            raise SchemaError(
                f"the statistics lack feature {feature.name!r}; run `limaml prepare` again with "
                "this schema"
            )
        return entry

    def save(self, path: str | Path) -> None:
        """Writes the statistics as a JSON file."""
        staging.write_text(path, json.dumps(dataclasses.asdict(self), indent=1) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> Statistics:
        """Reads a JSON file; raises `SchemaError`, naming the file, if it cannot be read."""
        path = Path(path)
        if not path.is_file():
            raise SchemaError(
                f"no statistics at {path}; `limaml prepare` writes them beside the task records"
            )
        try:
            return cls(**json.loads(path.read_text(encoding="utf-8")))
        except (OSError, TypeError, ValueError, RecursionError) as error:
            raise SchemaError(f"cannot read statistics {path}: {error}") from error
