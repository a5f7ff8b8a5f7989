"""The Beam package's subcommands of ``limaml``, as named by the entry points."""

from limaml_beam.commands.embed import COMMAND as EMBED
from limaml_beam.commands.erase import COMMAND as ERASE
from limaml_beam.commands.prepare import COMMAND as PREPARE
from limaml_beam.commands.refresh import COMMAND as REFRESH
from limaml_beam.commands.stream import COMMAND as STREAM
from limaml_beam.commands.update import COMMAND as UPDATE

__all__ = ["EMBED", "ERASE", "PREPARE", "REFRESH", "STREAM", "UPDATE"]
