"""The core's subcommands of ``limaml``, one module each."""
