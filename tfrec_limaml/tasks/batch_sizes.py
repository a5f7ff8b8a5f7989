"""Sizes of batches that several commands share; no library is imported for them."""

from __future__ import annotations

#: Tasks per batch, on average, where a model scores or adapts tasks without being trained. Results
#: depend on it within rounding only.
SCORED_TASKS = 256
