"""The Beam package's subcommands of ``limaml``, as named by the entry points."""

from limaml_beam.embed_command import COMMAND as EMBED
from limaml_beam.prepare_command import COMMAND as PREPARE
from limaml_beam.refresh_command import COMMAND as REFRESH

__all__ = ["EMBED", "PREPARE", "REFRESH"]
