"""Refuses options that would have no effect in combination with the others."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Sequence

from limaml_beam.generate_embeddings.options import EmbedOptions
from tfrec_limaml.errors import LimamlError


@dataclasses.dataclass(frozen=True)
class Rule:
    """Options that have no effect without some others, or together with some others.

    Attributes:
        options: The options, as on the command line.
        needs: One of these must be given, if there are any.
        not_with: None of these may be given.
    """

    options: Sequence[str]
    needs: Sequence[str] = ()
    not_with: Sequence[str] = ()


def refuse_ignored(
    arguments: argparse.Namespace,
    add_arguments: Callable[[argparse.ArgumentParser], None],
    rules: Sequence[Rule],
) -> None:
    """Refuses options that would be ignored.

    Args:
        arguments: The parsed command line.
        add_arguments: Adds the command's options to a parser, whose defaults count as not given.
        rules: What is ignored.

    Raises:
        LimamlError: An option is given that does nothing beside the others.
    """
    parser = argparse.ArgumentParser(add_help=False)
    add_arguments(parser)

    def is_given(option: str) -> bool:
        name = option.removeprefix("--").replace("-", "_")
        return bool(getattr(arguments, name) != parser.get_default(name))

    for rule in rules:
        for option in filter(is_given, rule.options):
            if rule.needs and not any(map(is_given, rule.needs)):
                needed = " or ".join(rule.needs)
                raise LimamlError(
                    f"{option} needs {needed}, and does nothing without it: leave out {option}, "
                    f"or give {needed}"
                )
            for other in filter(is_given, rule.not_with):
                raise LimamlError(
                    f"{option} does nothing with {other}: leave out {option}, or {other}"
                )


def refuse_engine(flags: Sequence[str], option: str, remedy: str) -> None:
    """Refuses an option that has an effect on the local runner only.

    Args:
        flags: Beam's flags, as given with ``--beam``.
        option: Its name and value.
        remedy: What to do instead.
    """
    from apache_beam.options.pipeline_options import StandardOptions

    from limaml_beam.io.pipeline_options import LOCAL_RUNNER, local_by_default

    runner = local_by_default(list(flags)).view_as(StandardOptions).runner
    if runner != LOCAL_RUNNER:
        raise LimamlError(f"{option} does nothing with --beam=--runner={runner}: {remedy}")


def refuse_workers(arguments: argparse.Namespace) -> None:
    """Refuses ``--workers`` on another engine, and together with Beam flags that contradict it.

    The option sets the number of worker processes on this machine.
    """
    if arguments.workers == EmbedOptions.workers:
        return
    option = f"--workers {arguments.workers}"
    refuse_engine(
        arguments.beam, option, "leave it out; an engine has flags of its own for its workers"
    )
    _refuse_other_flags(
        arguments.beam, option, EmbedOptions(workers=arguments.workers).worker_flags
    )


def _refuse_other_flags(flags: Sequence[str], option: str, meant: Sequence[str]) -> None:
    """Refuses flags for Beam that contradict an option.

    Args:
        flags: Beam's flags, as given with ``--beam``.
        option: Its name and value.
        meant: The flags for Beam that it stands for, ``--name=value``.
    """
    from limaml_beam.io.pipeline_options import local_by_default

    values = local_by_default(list(flags)).get_all_options()
    given = {flag.partition("=")[0].lstrip("-") for flag in flags if flag.startswith("-")}
    for flag in meant:
        name, _, value = flag.lstrip("-").partition("=")
        if name in given and str(values[name]) != value:
            raise LimamlError(
                f"{option} means {flag}, and --beam=--{name}={values[name]} says something else: "
                "leave out one of the two"
            )
