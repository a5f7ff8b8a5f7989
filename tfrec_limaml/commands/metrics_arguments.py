"""Options of commands that answer Prometheus over HTTP."""

from __future__ import annotations

import argparse


def add_metrics_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds ``--metrics-port`` and ``--metrics-host``."""
    parser.add_argument(
        "--metrics-port",
        type=int,
        metavar="N",
        help="serve Prometheus metrics at http://127.0.0.1:N/metrics",
    )
    parser.add_argument(
        "--metrics-host", default="127.0.0.1", help="address for the metrics (default: %(default)s)"
    )
