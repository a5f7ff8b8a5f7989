"""``limaml reproduce``: the paper's tables on public or simulated data."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tfrec_limaml import staging
from tfrec_limaml.cli import Command, say
from tfrec_limaml.commands.arguments import at_least, output_folder
from tfrec_limaml.errors import LimamlError
from tfrec_limaml.tensorflow_setup import import_tensorflow

_DESCRIPTION = """\
Repeats the paper's experiments: algorithms with and without fine-tuning (table3), meta blocks
(table4), task definitions (table5), training time (table6), cohorts (table8), inner steps (table9),
dropout (table10), learning rates (table11 to table13), pooling (table14), old embeddings (refresh),
and the parts of the default recipe (ablation). Each table shows the paper's figures beside ours,
and which of the paper's orderings hold. Runs are kept: an interrupted table continues where it
stopped.

example:
  limaml reproduce table3 --output runs/paper
  limaml reproduce all --dataset kuairand-pure --data-dir data --output runs/kuairand
  limaml reproduce all --quick --output runs/quick     minutes, on a small simulated world; fails if
                                                       an ordering that should always hold does not
"""

#: Further arguments of ``limaml datasets prepare`` (data) and ``limaml prepare`` (tasks).
_PREPARE: dict[str, dict[str, tuple[str, ...]]] = {
    "simulated": {},
    "kuairand-pure": {"data": ("--history",)},
    "movielens-100k": {
        "data": ("--history",),
        "tasks": ("--split-per-task", "0.6,0.2,0.2", "--max-samples", "1000"),
    },
}
_DEFINITIONS = {
    "simulated": ("member", "member_type"),
    "kuairand-pure": ("user", "user_tab"),
    "movielens-100k": ("user",),
}
_DATA_FILE = "data.json"  # of an output folder: the data of its tables
_QUICK_DATA = ("--members", "600")
_QUICK_EPOCHS = 4


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``limaml reproduce``."""
    parser.add_argument(
        "tables", nargs="+", metavar="TABLE", help="names of tables, such as table3, or all"
    )
    parser.add_argument(
        "--dataset",
        choices=sorted(_PREPARE),
        default="simulated",
        help="data set (default: %(default)s)",
    )
    parser.add_argument(
        "--data-dir",
        metavar="DIR",
        help="real data: folder of the official files (default: $LIMAML_DATA_DIR or the cache)",
    )
    parser.add_argument(
        "--output", type=output_folder, required=True, help="folder for runs and tables"
    )
    parser.add_argument(
        "--seeds",
        type=at_least(1),
        default=3,
        metavar="N",
        help="runs per line of a table (default: %(default)s)",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="one seed, few epochs, fewer lines, on a small simulated world; fails if an ordering "
        "that should always hold does not",
    )


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Runs the tables; returns their results."""
    if args.data_dir and args.dataset == "simulated":
        raise LimamlError(
            f"--data-dir {args.data_dir} is for real data; the simulated world needs no files"
        )
    if args.quick and args.dataset != "simulated":
        raise LimamlError(f"--quick runs on the simulated world, received {args.dataset!r}")
    import_tensorflow()
    from tfrec_limaml.report.tables_page import write_tables_page
    from tfrec_limaml.reproduction.paper_tables import all_tables
    from tfrec_limaml.reproduction.run import failed, run_table
    from tfrec_limaml.reproduction.setups import make_cpu_devices
    from tfrec_limaml.training.recipes import configure_tensorflow

    tables = all_tables(_DEFINITIONS[args.dataset], args.quick)
    names = list(tables) if args.tables == ["all"] else list(dict.fromkeys(args.tables))
    unknown = sorted(set(names) - set(tables))
    if unknown:
        raise LimamlError(f"unknown tables {unknown}; choose from {[*tables, 'all']}")
    _check_output(args)
    configure_tensorflow()
    replicas = max(line.setup.replicas for name in names for line in tables[name].lines)
    if replicas > 1:
        make_cpu_devices(replicas)
    seeds = range(1, 2) if args.quick else range(1, args.seeds + 1)
    epochs = _QUICK_EPOCHS if args.quick else None
    results = []
    for name in names:
        tasks = _records(args, tables[name].records)
        staging.write_text(args.output / _DATA_FILE, json.dumps(_data_of(args)) + "\n")
        results.append(run_table(tables[name], tasks, args.output, seeds, epochs, say))
        say(f"wrote {args.output / name}.md")
    runs = " (--quick)" if args.quick else ""
    title = f"The paper's tables on {args.dataset}{runs}"
    write_tables_page(args.output / "report.html", title, results)
    failures = [line for result in results for line in failed(result)]
    if args.quick and failures:
        raise LimamlError("orderings that should always hold do not: " + "; ".join(failures))
    return {"output": str(args.output), "tables": results}


def _data_of(args: argparse.Namespace) -> dict[str, Any]:
    return {"dataset": args.dataset, "quick": args.quick}


def _check_output(args: argparse.Namespace) -> None:
    """Raises `LimamlError` if the output folder has tables of other data."""
    path: Path = args.output / _DATA_FILE
    if path.is_file():
        earlier = json.loads(path.read_text("utf-8"))
        if earlier != _data_of(args):
            quick = " --quick" if earlier["quick"] else ""
            raise LimamlError(
                f"{args.output} has tables of --dataset {earlier['dataset']}{quick}; choose "
                "another --output"
            )


def _records(args: argparse.Namespace, kind: str) -> Path:
    """The folder of task records of a kind; created if it is missing."""
    folder: Path = args.output / "data" / kind
    tasks = folder / "tasks"
    if tasks.is_dir():
        return tasks
    options = _PREPARE[args.dataset]
    data = [*options.get("data", ()), *(_QUICK_DATA if args.quick else ())]
    if args.data_dir:
        data += ["--data-dir", args.data_dir]
    if kind == "id":
        data.append("--id-feature")
    if kind == "definitions":
        data += ["--tasks", ",".join(_DEFINITIONS[args.dataset])]
    raw = folder / "raw"
    steps: Sequence[Sequence[str]] = (
        ["datasets", "prepare", args.dataset, "--output", str(raw), "--overwrite", *data],
        ["prepare", str(raw), "--output", str(tasks), *options.get("tasks", ())],
    )
    from tfrec_limaml.demo.stages import call

    for step in steps:
        say(f"limaml {' '.join(step)}")
        call(step)
    return tasks


def render(result: dict[str, Any]) -> str:
    """The tables as Markdown."""
    from tfrec_limaml.reproduction.run import markdown

    text = "\n\n".join(markdown(table) for table in result["tables"])
    return f"{text}\n\nwrote {result['output']}/report.html"


COMMAND = Command(
    help="reproduce the paper's tables on public or simulated data",
    description=_DESCRIPTION,
    add_arguments=add_arguments,
    run=run,
    render=render,
)
