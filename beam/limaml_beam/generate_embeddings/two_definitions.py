"""The embedding job of a model of two definitions, neither of which refines the other.

Both sides are adapted in turns, the second definition first, each given the other side's offsets so
far, as in training (`tfrec_limaml.training.joint`). A turn is one pass over one definition's recent
records; the offsets of the last two are the output.
"""

from __future__ import annotations

from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions

from limaml_beam.generate_embeddings import artefacts, tables, turns
from limaml_beam.generate_embeddings.adapter import sharing_models
from limaml_beam.generate_embeddings.counts import read_counts
from limaml_beam.generate_embeddings.options import EmbedOptions
from limaml_beam.generate_embeddings.other_side import TurnInputs
from limaml_beam.generate_embeddings.pipeline import (
    EmbeddingJob,
    GenerateEmbeddings,
    write_results,
)
from limaml_beam.io import files, runner_errors, staged_output
from limaml_beam.io.pipeline_options import new_pipeline
from limaml_beam.rows.columnar import sum_counts
from tfrec_limaml.errors import LimamlError
from tfrec_limaml.manifest import Manifest

#: Part of the file names of each definition in an output. Neither name begins with the other,
#: because Beam removes existing files whose names begin with the name that it writes.
SUFFIXES = ("-first", "-second")
_TURNS = "unfinished_turns"


def check(job: EmbeddingJob, manifest: Manifest) -> None:
    """Raises `LimamlError` for options that such a job does not support."""
    if job.previous is not None:
        manifest.refuse_two_definitions(
            "an offset changes with those of the other side, so that every run is a full run; "
            "leave out --previous"
        )
    check_options(job, manifest)
    if job.with_variance:
        manifest.refuse_two_definitions("leave out --with-variance")


def check_options(options: EmbedOptions, manifest: Manifest) -> None:
    """The part of `check` that is known before there are records."""
    if options.max_age_days:
        manifest.refuse_two_definitions(
            "every run is a full run, which keeps no task outside the window; leave out "
            "--max-age-days"
        )


@sharing_models()
def run(job: EmbeddingJob, manifest: Manifest, folder: str, options: PipelineOptions) -> None:
    """Computes both definitions' embeddings in `folder`; `read_both` gives their counts."""
    check(job, manifest)
    definitions = (manifest.task_definition, *manifest.joint_definitions)
    records = [artefacts.task_files(job.tasks, name) for name in definitions]
    all_turns = turns.turns_of(int(manifest.inner_loop["sweeps"]))
    offset_files: tuple[str, ...] = ()
    for turn, side in all_turns:
        last = turn >= len(all_turns) - 2
        turn_folder = files.join(folder, _TURNS, f"{side}-last" if last else str(turn))
        target = folder if last else turn_folder
        suffix = SUFFIXES[side] if last else ""
        pipeline = new_pipeline(options)
        results = (
            pipeline
            | "Files" >> beam.Create(records[side])
            | "GenerateEmbeddings"
            >> GenerateEmbeddings(job, manifest, turn_inputs=TurnInputs(side, offset_files))
        )
        write_results(results, target, suffix=suffix, counts_folder=turn_folder)
        with runner_errors.readable(job.output):
            pipeline.run().wait_until_finish()
        offset_files = tuple(
            files.matching(target, f"{tables.EMBEDDINGS_PREFIX}{suffix}-*.parquet")
        )
        if job.keep_turns and not last:
            turns.write_offsets(folder, turn, offset_files)


def read_both(folder: str, manifest: Manifest) -> tuple[dict[str, int], dict[str, Any]]:
    """The summed counts of the last two turns, and their entries for the report.

    Removes the turns' temporary output.
    """
    names = (manifest.task_definition, *manifest.joint_definitions)
    counts = [read_counts(files.join(folder, _TURNS, f"{side}-last")) for side in (0, 1)]
    if any(count is None for count in counts):
        raise LimamlError(f"the job that writes {folder} is not done: run it again")
    turn_counts = [count for count in counts if count is not None]
    staged_output.discard(files.join(folder, _TURNS))
    by_definition = {n: c.get("tasks_embedded", 0) for n, c in zip(names, turn_counts, strict=True)}
    return sum_counts(turn_counts), {"by_definition": by_definition}
