r"""Core-hours and storage of the daily jobs at many members, from rates of other benchmarks.

    python benchmarks/build_tasks.py --json > build_tasks.json
    python benchmarks/embedding_job.py --json > embedding_job.json
    python benchmarks/store.py --json > store.json
    python benchmarks/scaling.py --build-tasks build_tasks.json \
        --embedding-job embedding_job.json --store store.json --rows-per-member 52 [--json]

Linear extrapolation: a job's work grows with its rows and tasks, each on its own core. Work that
more workers do not speed up (one machine loads the store) is given in wall-clock hours. Set your
price with --core-hour-price.

Keys: `rates` with `build_rows_per_core_s`, `embed_tasks_per_core_s`, `store_rows_per_s` and
`store_bytes_per_member`; `table`, a list with `members`, `build_tasks_core_hours`,
`embed_core_hours`, `store_load_hours`, `store_gigabytes` and, if it was given, `price`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from command_line import parser_of

MEMBERS = (10**7, 10**8, 10**9)


def rates(
    build_tasks: Mapping[str, Any], embedding_job: Mapping[str, Any], store: Mapping[str, Any]
) -> dict[str, float]:
    """The rates of one core, from the benchmarks' JSON; the largest size counts."""
    largest = max(build_tasks["runs"], key=lambda run: run["rows"])
    return {
        "build_rows_per_core_s": largest["rows"] / largest["processor_seconds"],
        "embed_tasks_per_core_s": embedding_job["one_single_threaded_worker_tasks_per_s"],
        "store_rows_per_s": store["bulk_rows_per_s"],
        "store_bytes_per_member": store["bytes_per_row"],
    }


def scale(
    rate: Mapping[str, float],
    members: int,
    rows_per_member: float,
    changed: float,
    core_hour_price: float | None,
) -> dict[str, float]:
    """One line of the table.

    Args:
        rate: As `rates` gives them.
        members: Members in the window.
        rows_per_member: Interactions of a member in the window.
        changed: Share of members whose record changed since the last run.
        core_hour_price: Price of one core for an hour.
    """
    build = members * rows_per_member / rate["build_rows_per_core_s"] / 3600
    embed = members * changed / rate["embed_tasks_per_core_s"] / 3600
    line = {
        "members": members,
        "build_tasks_core_hours": build,
        "embed_core_hours": embed,
        "store_load_hours": members / rate["store_rows_per_s"] / 3600,
        "store_gigabytes": members * rate["store_bytes_per_member"] / 1e9,
    }
    return line if core_hour_price is None else line | {"price": (build + embed) * core_hour_price}


def main() -> None:
    parser = parser_of(__doc__)
    for name in ("build-tasks", "embedding-job", "store"):
        parser.add_argument(
            f"--{name}",
            type=Path,
            required=True,
            metavar="JSON",
            help=f"what benchmarks/{name.replace('-', '_')}.py printed",
        )
    parser.add_argument(
        "--backend",
        default="lmdb",
        help="store backend to take from the store's report (default lmdb)",
    )
    parser.add_argument(
        "--rows-per-member",
        type=float,
        required=True,
        help="interactions of a member in the window",
    )
    parser.add_argument(
        "--changed",
        type=float,
        default=1.0,
        help="share of members whose record changed (default 1: a full run)",
    )
    parser.add_argument(
        "--core-hour-price", type=float, help="adds a column with the price of the core-hours"
    )
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    read = [
        json.loads(path.read_text())
        for path in (arguments.build_tasks, arguments.embedding_job, arguments.store)
    ]
    rate = rates(read[0], read[1], read[2][arguments.backend])
    lines = [
        scale(rate, n, arguments.rows_per_member, arguments.changed, arguments.core_hour_price)
        for n in MEMBERS
    ]
    if arguments.json:
        print(json.dumps({"rates": rate, "table": lines}, indent=2))
        return
    print(
        f"| {' | '.join(name.replace('_', ' ') for name in lines[0])} |\n|{'---|' * len(lines[0])}"
    )
    for line in lines:
        print(
            "| "
            f"{' | '.join(f'{value:,.3g}' if value < 1000 else f'{value:,.0f}' for value in line.values())} |"  # noqa: E501
        )


if __name__ == "__main__":
    main()
