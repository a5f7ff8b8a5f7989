"""Beam pipelines: labelled data to task records to meta embeddings.

The names below are loaded on first use, so that ``import limaml_beam`` does not import Beam. The
function of the daily job is `limaml_beam.refresh.job.refresh`: here its name is that of the
subpackage.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tfrec_limaml.lazy_names import lazy_getattr

if TYPE_CHECKING:
    from limaml_beam.build_tasks.options import PrepareOptions
    from limaml_beam.build_tasks.prepare import prepare
    from limaml_beam.erasure.job import Erasure, erase
    from limaml_beam.generate_embeddings.artefacts import newest_adapter, read_manifest
    from limaml_beam.generate_embeddings.job import generate, new_generation_name
    from limaml_beam.generate_embeddings.options import EmbedOptions
    from limaml_beam.generate_embeddings.pipeline import EmbeddingJob
    from limaml_beam.generate_embeddings.publish import publish
    from limaml_beam.refresh.options import Refresh, Thresholds
    from limaml_beam.update.job import Update, Updater

__all__ = [
    "EmbedOptions",
    "EmbeddingJob",
    "Erasure",
    "PrepareOptions",
    "Refresh",
    "Thresholds",
    "Update",
    "Updater",
    "erase",
    "generate",
    "new_generation_name",
    "newest_adapter",
    "prepare",
    "publish",
    "read_manifest",
]

# Loaded on first use, so that `limaml --help` does not pay for Beam.
_MODULES = {
    "EmbedOptions": "generate_embeddings.options",
    "EmbeddingJob": "generate_embeddings.pipeline",
    "Erasure": "erasure.job",
    "PrepareOptions": "build_tasks.options",
    "Refresh": "refresh.options",
    "Thresholds": "refresh.options",
    "Update": "update.job",
    "Updater": "update.job",
    "erase": "erasure.job",
    "generate": "generate_embeddings.job",
    "new_generation_name": "generate_embeddings.job",
    "newest_adapter": "generate_embeddings.artefacts",
    "prepare": "build_tasks.prepare",
    "publish": "generate_embeddings.publish",
    "read_manifest": "generate_embeddings.artefacts",
}

__getattr__ = lazy_getattr(__name__, _MODULES)


def __dir__() -> list[str]:
    return __all__
