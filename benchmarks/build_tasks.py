"""Rows per second and memory of `limaml prepare` on the KuaiRand log and on copies of it.

    python benchmarks/build_tasks.py --json
    python benchmarks/build_tasks.py --copies 1,10,100 --history
    python benchmarks/build_tasks.py --raw FOLDER

Needs the official files of the log below LIMAML_DATA_DIR, or with `--raw` a folder of another data
set that `limaml datasets prepare` wrote. Every copy renumbers the members, so that ten copies have
ten times the members with the same number of rows each. Each size runs in a separate process.
`rows_per_s` includes everything, also the start-up of Python and Beam;
`us_per_row` is processor time minus that of a run of every 200th member, and `linearity` its ratio
to that of the first size: 1 if twice the rows cost twice as much.

Keys: `workers`, `history`, `recent_only`, `start_up_processor_seconds`, and `runs`, with `copies`,
`rows`, `seconds`, `processor_seconds`, `peak_bytes`, `rows_per_s`, `us_per_row` and `linearity`.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from command_line import parser_of, positive

from tfrec_limaml.schema.schema import Schema

LIMAML = [sys.executable, "-m", "tfrec_limaml"]


def copy_members(raw: Path, target: Path, copies: int, stride: int = 1) -> int:
    """Writes copies of the data of every `stride`-th member; returns the number of rows.

    Each copy is one file of interactions.

    One copy of one table is in memory at a time.
    """
    target.mkdir()
    definitions = Schema.load(raw / "schema.yaml").tasks.values()
    member = next(iter(definitions))[0]  # the column that is renumbered
    (target / "schema.yaml").write_bytes((raw / "schema.yaml").read_bytes())
    rows = 0
    for path in raw.glob("*.parquet"):
        table = pq.read_table(path)
        if member not in table.column_names:
            pq.write_table(table, target / path.name)
            continue
        members = table[member].cast(pa.int64())
        kept = pc.equal(pc.subtract(members, pc.multiply(pc.divide(members, stride), stride)), 0)
        table, members = table.filter(kept), members.filter(kept)

        def renumbered(
            copy: int, table: pa.Table = table, members: pa.ChunkedArray = members
        ) -> pa.Table:
            return table.set_column(
                table.column_names.index(member), member, pc.add(members, copy * 10_000_000)
            )

        if path.stem == "interactions":
            for copy in range(copies):
                pq.write_table(renumbered(copy), target / f"interactions-{copy:05d}.parquet")
            rows = copies * table.num_rows
        else:
            with pq.ParquetWriter(target / path.name, renumbered(0).schema) as writer:
                for copy in range(copies):
                    writer.write_table(renumbered(copy))
    return rows


def tree_bytes(pid: int) -> int:
    """Resident memory of a process and its descendants (Linux); shared pages count in each."""
    total = 0
    pending = [pid]
    while pending:
        current = pending.pop()
        try:
            total += int(Path(f"/proc/{current}/statm").read_text().split()[1]) * os.sysconf(
                "SC_PAGE_SIZE"
            )
            for children in Path(f"/proc/{current}/task").glob("*/children"):
                pending += map(int, children.read_text().split())
        except (FileNotFoundError, ProcessLookupError):
            continue
    return total


def measure(command: list[str]) -> dict[str, float]:
    """Wall seconds, processor seconds and peak memory of a command and its children."""
    before = os.times()
    started = time.perf_counter()
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    peak = 0

    def watch() -> None:
        nonlocal peak
        while process.poll() is None:
            peak = max(peak, tree_bytes(process.pid))
            time.sleep(0.05)

    watcher = threading.Thread(target=watch)
    watcher.start()
    errors = process.communicate()[1]
    watcher.join()
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{errors[-2000:]}")
    after = os.times()
    processor = (
        after.children_user + after.children_system - before.children_user - before.children_system
    )
    return {
        "seconds": time.perf_counter() - started,
        "processor_seconds": processor,
        "peak_bytes": peak,
    }


def prepare(source: Path, flags: list[str]) -> dict[str, float]:
    """Measures one run; removes its output."""
    output = source.with_name("tasks")
    files = ["--interactions", str(source / "interactions-*.parquet")]
    spent = measure([*LIMAML, "prepare", str(source), "--output", str(output), *files, *flags])
    shutil.rmtree(output)
    return spent


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument(
        "--copies",
        default="1,10",
        metavar="N[,N]",
        help="sizes to measure (default: 1,10; 100 takes long)",
    )
    parser.add_argument("--raw", type=Path, help="a folder with interactions.parquet")
    parser.add_argument(
        "--history", action="store_true", help="with point-in-time history features"
    )
    parser.add_argument("--recent-only", action="store_true", help="only the daily job's records")
    parser.add_argument(
        "--workers", type=positive, default=1, help="worker processes (default 1: in this process)"
    )
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    flags = ["--recent-only", "--window-end", "2022-05-09"] if arguments.recent_only else []
    if arguments.workers > 1:
        flags += [
            "--beam=--direct_running_mode=multi_processing",
            f"--beam=--direct_num_workers={arguments.workers}",
        ]
    runs: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        raw, source = arguments.raw or Path(folder, "raw"), Path(folder, "copies")
        if arguments.raw is None:
            history = ["--history"] if arguments.history else []
            command = [*LIMAML, "datasets", "prepare", "kuairand-pure", "--output", str(raw)]
            measure([*command, *history])
        copy_members(raw, source, 1, stride=200)
        start_up = prepare(source, flags)["processor_seconds"]
        for copies in map(int, arguments.copies.split(",")):
            shutil.rmtree(source)
            rows = copy_members(raw, source, copies)
            spent = prepare(source, flags)
            per_row = (spent["processor_seconds"] - start_up) / rows * 1e6
            linearity = per_row / (runs[0]["us_per_row"] if runs else per_row)
            speeds = {
                "rows_per_s": rows / spent["seconds"],
                "us_per_row": per_row,
                "linearity": linearity,
            }
            runs.append({"copies": copies, "rows": rows, **spent, **speeds})
    if arguments.json:
        facts = {
            "workers": arguments.workers,
            "history": arguments.history,
            "recent_only": arguments.recent_only,
        }
        print(json.dumps({**facts, "start_up_processor_seconds": start_up, "runs": runs}, indent=2))
        return
    print(f"start-up {start_up:.1f} processor seconds")
    for run in runs:
        print(
            f"{run['copies']:4d} x: {run['rows']:10,d} rows in {run['seconds']:7.1f} s "
            f"({run['rows_per_s']:8,.0f} rows/s, "
            f"{run['processor_seconds']:.1f} processor seconds), {run['us_per_row']:.1f} us of "
            f"them per row (x {run['linearity']:.2f}), "
            f"peak {run['peak_bytes'] / 2**20:,.0f} MiB"
        )


if __name__ == "__main__":
    main()
