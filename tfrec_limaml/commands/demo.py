"""``limaml demo``: the whole loop in one command."""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path
from typing import Any

from tfrec_limaml.cli import Command
from tfrec_limaml.commands.arguments import at_least, output_folder
from tfrec_limaml.errors import LimamlError
from tfrec_limaml.wording import counted

DATASETS = ("simulated", "kuairand-pure")

_DESCRIPTION = """\
Runs the whole loop on this machine: get data, build task records (Beam), train a baseline and
LiMAML, evaluate, export, compute and publish embeddings (Beam), serve, and rank one member's
candidates over gRPC, without and with the member's embedding and after a few more clicks. Each
stage prints its command. Writes report.html beside its outputs.

With --live it then serves a page on which you click candidates for that member and watch the list
change, with the time that each click took through limaml stream, the store and the ranker.

Finished stages are skipped: run the same command to continue after an interruption.

example:
  limaml demo --dataset simulated --workspace runs/simulated
  limaml demo --workspace runs/simulated --live
  limaml demo --dataset kuairand-pure --data-dir ~/data --workspace runs/kuairand
next: open runs/simulated/report.html, then try the commands that the demo names at its end
"""


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--dataset",
        choices=DATASETS,
        default="simulated",
        help="data set (default: %(default)s, which needs no download)",
    )
    parser.add_argument(
        "--workspace",
        type=output_folder,
        required=True,
        metavar="DIR",
        help="folder for all outputs",
    )
    parser.add_argument(
        "--data-dir",
        metavar="DIR",
        help="kuairand-pure: folder that holds KuaiRand-Pure/ (default: $LIMAML_DATA_DIR)",
    )
    parser.add_argument(
        "--members", type=at_least(1), metavar="N", help="simulated: number of members"
    )
    parser.add_argument(
        "--epochs", type=at_least(1), metavar="N", help="train at most this many epochs"
    )
    _add_live_arguments(parser)
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="remove an earlier demo in this folder and start again",
    )


def _add_live_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--live",
        action="store_true",
        help="afterwards serve a page on which you click for one member and see the list change",
    )
    parser.add_argument(
        "--port",
        type=int,
        default=8800,
        metavar="N",
        help="port of the --live page on 127.0.0.1; 0 for a free one (default: %(default)s)",
    )


def _run(arguments: argparse.Namespace) -> dict[str, Any]:
    if arguments.data_dir and arguments.dataset == "simulated":
        raise LimamlError(
            f"--data-dir {arguments.data_dir} is for kuairand-pure; the simulated world needs no "
            "files"
        )
    if arguments.members and arguments.dataset != "simulated":
        raise LimamlError(
            f"--members {arguments.members} is for the simulated world; for a part of "
            f"{arguments.dataset} run `limaml datasets prepare {arguments.dataset} --members ...` "
            "and the stages after it"
        )
    from tfrec_limaml.demo.run import run_demo

    data = [
        part
        for name in ("data_dir", "members")
        if (value := getattr(arguments, name))
        for part in (_flag(name), str(value))
    ]
    training = ["--epochs", str(arguments.epochs)] if arguments.epochs else []
    result = run_demo(
        arguments.dataset,
        arguments.workspace,
        data=data,
        training=training,
        overwrite=arguments.overwrite,
    )
    if arguments.live:
        from tfrec_limaml.demo.live_run import run_live

        run_live(arguments.dataset, arguments.workspace, arguments.port)
    return result


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _activation() -> str:
    """The command that makes `limaml` available, if it is not."""
    script = Path(sys.prefix) / "bin" / "activate"
    if shutil.which("limaml") or not script.is_file():
        return ""
    near = script.is_relative_to(Path.cwd())
    return f" (first `. {script.relative_to(Path.cwd()) if near else script}`)"


def _render(result: dict[str, Any]) -> str:
    from tfrec_limaml.demo.summary import facts, next_steps, ranking_table

    lines = facts(result)
    width = max(len(name) for name, _ in lines)
    ranking = result["ranking"]
    return "\n".join(
        [
            "",
            *(f"{name:{width}}  {value}" for name, value in lines),
            "",
            f"Member {ranking['member']} ({counted(ranking['interactions'], 'interaction')}), "
            "candidates by probability of a click:",
            *ranking_table(result),
            f"(the clicks in between: {'; '.join(ranking['clicks'])})",
            "",
            f"All outputs are in {result['written']['workspace']}; open "
            f"{result['written']['report']}",
            "",
            f"What to try next{_activation()}:",
            *(
                f"  {step}"
                for step in next_steps(result["dataset"], Path(result["written"]["workspace"]))
            ),
        ]
    )


COMMAND = Command(
    help="run the whole loop and write report.html",
    description=_DESCRIPTION,
    add_arguments=_add_arguments,
    run=_run,
    render=_render,
)
