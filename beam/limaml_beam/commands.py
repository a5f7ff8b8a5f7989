"""The Beam package's subcommands of ``limaml``, as named by the entry points."""

from limaml_beam.embed_command import COMMAND as EMBED
from limaml_beam.prepare_command import COMMAND as PREPARE

__all__ = ["EMBED", "PREPARE"]
