"""``limaml embed``: computes embeddings from task records and publishes them."""

from __future__ import annotations

import argparse
import contextlib
from typing import TYPE_CHECKING, Any

from limaml_beam.commands.beam_flags import quiet_beam, report_paths
from limaml_beam.commands.embed_arguments import add_arguments, options_from
from limaml_beam.commands.ignored_options import Rule, refuse_ignored, refuse_workers
from limaml_beam.generate_embeddings.options import EmbedOptions
from tfrec_limaml.cli import Command
from tfrec_limaml.errors import LimamlError, StoreError
from tfrec_limaml.wording import counted

if TYPE_CHECKING:
    from tfrec_limaml.store import EmbeddingStore

DESCRIPTION = """\
Adapts the exported model to every task in TASKS and writes the meta embeddings as Parquet; with
--store it also publishes them as one generation, which becomes visible all at once after the
number of embeddings has been checked.

example:
  limaml embed TASKS --export EXPORT --output EMBEDDINGS --store lmdb:STORE

every next day, adapting only the tasks that changed:
  limaml embed TASKS2 --export EXPORT --output EMBEDDINGS2 --previous EMBEDDINGS --store lmdb:STORE

on another engine, with folders that its workers can reach (gs://, s3://, a mount):
  limaml embed gs://B/TASKS --export gs://B/EXPORT --output gs://B/EMBEDDINGS \\
      --beam=--runner=DataflowRunner ...

in two steps, if the process that starts the job cannot wait for it:
  limaml embed ... --launch-only        submits the job and returns
  limaml embed ... --finish             when the job is done: checks, renames the output, publishes

next: limaml serve EXPORT/ranker, then limaml rank --store lmdb:STORE (or limaml refresh, the
daily job)
"""

IGNORED = (
    Rule(("--keep-generations",), needs=("--store", "--variance-store")),
    # The other two steps repeat the options of the first one.
    Rule(("--max-age-days",), needs=("--previous", "--finish", "--publish-only")),
)


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Runs the job and publishes its output, or runs one of the separate steps."""
    from limaml_beam.io import outcome
    from limaml_beam.io.pipeline_options import use_options

    # The report may be on a filesystem that needs Beam's options, even if all else fails.
    quiet_beam(use_options(arguments.beam))
    with outcome.reported("embed", report_paths(arguments), arguments.metrics_file):
        options = options_from(arguments)
        refuse_ignored(arguments, add_arguments, IGNORED)
        refuse_workers(arguments)
        if arguments.launch_only and (arguments.store or arguments.variance_store):
            raise LimamlError(
                "--store belongs to --finish: --launch-only returns before anything can be "
                "published"
            )
        if arguments.publish_only and not arguments.store:
            raise LimamlError("--publish-only needs --store")
        if arguments.variance_store and arguments.variance_store == arguments.store:
            raise LimamlError(
                "--variance-store must not be the store of --store, received the same address"
            )
        return _run(arguments, options)


def _run(arguments: argparse.Namespace, options: EmbedOptions) -> dict[str, Any]:
    from limaml_beam.generate_embeddings.report import read_report
    from limaml_beam.io import outcome
    from tfrec_limaml.store import open_store

    store = open_store(arguments.store) if arguments.store else None
    if arguments.publish_only:
        report = read_report(arguments.output)
        outcome.note(**report)
    else:
        report = _embed(arguments, options, store)
    if arguments.variance_store:  # first: readers that see an embedding must find its variance
        outcome.stage("publish")
        if not report.get("with_variance"):
            raise LimamlError(
                f"{arguments.output} holds no variances for --variance-store; run the job again "
                "with --with-variance"
            )
        variances = open_store(arguments.variance_store)
        report["published_variances"] = _publish(arguments, options, variances, "variance")
        variances.close()
    if store is not None:
        outcome.stage("publish")
        report["published"] = _publish(arguments, options, store)
        outcome.note(published=report["published"])
        store.close()
    return report


def _embed(
    arguments: argparse.Namespace, options: EmbedOptions, store: EmbeddingStore | None
) -> dict[str, Any]:
    from limaml_beam.generate_embeddings import job
    from limaml_beam.generate_embeddings.artefacts import newest_adapter, read_manifest
    from limaml_beam.generate_embeddings.pipeline import EmbeddingJob

    adapter = newest_adapter(arguments.export)
    settings = EmbeddingJob.from_options(
        options,
        tasks=arguments.tasks,
        adapter=adapter,
        output=arguments.output,
        generation=job.new_generation_name(store, read_manifest(adapter).model_version),
        previous=arguments.previous,
        with_variance=arguments.with_variance or bool(arguments.variance_store),
    )
    step = job.launch if arguments.launch_only else job.finish if arguments.finish else job.generate
    return step(settings, arguments.beam, overwrite=arguments.overwrite)


def _publish(
    arguments: argparse.Namespace,
    options: EmbedOptions,
    store: EmbeddingStore,
    column: str = "embedding",
) -> str:
    from limaml_beam.generate_embeddings.publish import publish

    try:
        return publish(arguments.output, store, column, options.keep_generations).identifier
    except StoreError as error:
        raise StoreError(f"{error}; {_remedy(arguments.output, store)}") from error


def _remedy(output: str, store: EmbeddingStore) -> str:
    """What to do about a store that refused an output."""
    from limaml_beam.generate_embeddings.report import read_report

    report, newest = read_report(output), ""
    with contextlib.suppress(StoreError):
        newest = max((g.identifier for g in store.generations(report["model_version"])), default="")
    if newest > report["generation"]:
        return f"{newest} is published already: run the embedding job again for a newer generation"
    return (
        f"the embeddings are complete in {output}: once the store answers, repeat the command "
        "with --publish-only"
    )


def render(report: dict[str, Any]) -> str:
    """The report as text."""
    if "launched" in report:
        return (
            f"launched: {report['launched']}, generation {report['generation']}; when the job is "
            f"done, repeat the command with --finish"
        )
    lines = [
        f"generation {report['generation']} of model version {report['model_version']}: "
        f"{counted(report['rows'], 'embedding')} of width {report['embedding_dim']}",
        f"  {counted(report['tasks_read'], 'task')} read: {report['embedded']} adapted, "
        f"{report['carried']} unchanged",
    ]
    lines += [f"  {n} of {name}" for name, n in report.get("by_definition", {}).items()]
    titles = {
        "kept_outside_window": "kept although they left the window",
        "nested": "of nested tasks",
        "nested_unstorable_key": "of nested tasks left out: no store can hold their keys",
    }
    lines += [f"  {report[name]} {text}" for name, text in titles.items() if report.get(name)]
    if report.get("aged_out"):
        rows = counted(report["aged_out"], "left out: its rows", "left out: their rows")
        lines.append(f"  {rows} have all left the window")
    lines += [
        f"  {counted(count, 'dead letter')}: {name}"
        for name, count in report["dead_letters"].items()
    ]
    statistics = report.get("statistics", {})
    if report["rows"] and statistics.get("max_norm") == 0:
        lines.append(
            "  check: all embeddings are zero: the model does not adapt, because that gained "
            "nothing on the validation tasks of its training (adaptation strength 0)"
        )
    improvement = statistics.get("loss_improvement")
    if improvement is not None:
        verb = "lowers" if improvement >= 0 else "raises"
        lines.append(f"  adaptation {verb} the mean loss by {abs(improvement):.1%}")
    if report.get("published"):
        lines.append(f"published {report['published']}; next: limaml serve EXPORT/ranker")
    return "\n".join(lines)


COMMAND = Command(
    help="adapt the model to every task and publish the meta embeddings",
    description=DESCRIPTION,
    add_arguments=add_arguments,
    run=run,
    render=render,
)
