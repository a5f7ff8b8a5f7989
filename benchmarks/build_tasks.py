"""Rows per second and memory of `limaml prepare` on the KuaiRand log and on copies of it (simulated members).

    python benchmarks/build_tasks.py --json
    python benchmarks/build_tasks.py --copies 1 10 100 --history

Needs the log: a folder with the official files below LIMAML_DATA_DIR. Every copy renumbers the members, so that ten copies
are ten times the members with the same number of rows each. Start-up of Python and Beam is part of every time.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

MEMBER = "user_id"


def copy_members(raw: Path, target: Path, copies: int) -> int:
    """Writes `copies` times the data, one file of interactions per copy; returns the number of rows."""
    target.mkdir()
    (target / "schema.yaml").write_bytes((raw / "schema.yaml").read_bytes())
    for path in raw.glob("*.parquet"):
        table = pq.read_table(path)
        if MEMBER not in table.column_names:
            pq.write_table(table, target / path.name)
            continue
        parts = []
        for copy in range(copies):
            shifted = pc.add(table[MEMBER].cast(pa.int64()), copy * 10_000_000)
            parts.append(table.set_column(table.column_names.index(MEMBER), MEMBER, shifted))
        if path.stem == "interactions":
            for copy, part in enumerate(parts):
                pq.write_table(part, target / f"interactions-{copy:05d}.parquet")
        else:
            pq.write_table(pa.concat_tables(parts), target / path.name)
    return copies * pq.read_metadata(raw / "interactions.parquet").num_rows


def tree_bytes(pid: int) -> int:
    """Resident memory of a process and its descendants (Linux); shared pages count in each."""
    total = 0
    pending = [pid]
    while pending:
        current = pending.pop()
        try:
            total += int(Path(f"/proc/{current}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
            for children in Path(f"/proc/{current}/task").glob("*/children"):
                pending += map(int, children.read_text().split())
        except (FileNotFoundError, ProcessLookupError):
            continue
    return total


def measure(command: list[str]) -> dict[str, float]:
    """Wall seconds, processor seconds and peak memory of a command and its children."""
    before = os.times()
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
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
    processor = after.children_user + after.children_system - before.children_user - before.children_system
    return {"seconds": time.perf_counter() - started, "processor_seconds": processor, "peak_bytes": peak}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--copies", type=int, nargs="+", default=[1, 10], help="sizes to measure (default: 1 10; 100 takes long)")
    parser.add_argument("--history", action="store_true", help="with point-in-time history features")
    parser.add_argument("--workers", type=int, default=1, help="worker processes (default 1: in this process)")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    flags = ["--beam=--direct_running_mode=multi_processing", f"--beam=--direct_num_workers={arguments.workers}"]
    limaml = [sys.executable, "-m", "tfrec_limaml"]
    runs = []
    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder, "raw")
        history = ["--history"] if arguments.history else []
        measure([*limaml, "datasets", "prepare", "kuairand-pure", "--output", str(raw), *history])
        for copies in arguments.copies:
            source, output = Path(folder, f"raw-{copies}"), Path(folder, f"tasks-{copies}")
            rows = copy_members(raw, source, copies)
            command = [*limaml, "prepare", str(source), "--output", str(output), "--interactions", str(source / "interactions-*.parquet")]
            found = measure([*command, *(flags if arguments.workers > 1 else [])])
            runs.append({"copies": copies, "rows": rows, **found, "rows_per_s": rows / found["seconds"]})
    if arguments.json:
        print(json.dumps({"workers": arguments.workers, "history": arguments.history, "runs": runs}, indent=2))
        return
    for run in runs:
        print(
            f"{run['copies']:4d} x: {run['rows']:10,d} rows in {run['seconds']:7.1f} s ({run['rows_per_s']:8,.0f} rows/s, "
            f"{run['processor_seconds']:.1f} processor seconds), peak {run['peak_bytes'] / 2**20:,.0f} MiB"
        )


if __name__ == "__main__":
    main()
