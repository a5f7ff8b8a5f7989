"""The subcommands that this package adds to ``limaml``."""

from limaml_serving.commands.rank import RANK
from limaml_serving.commands.serve import SERVE

__all__ = ["RANK", "SERVE"]
