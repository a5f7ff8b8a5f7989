"""The scaling table's arithmetic."""

import json
import subprocess
import sys

import pytest


def test_the_table_follows_from_the_measured_rates(checkout, tmp_path):
    reports = {
        "build-tasks": {
            "runs": [
                {"rows": 10, "processor_seconds": 9.0},
                {"rows": 3_600_000, "processor_seconds": 36.0},
            ]
        },
        "embedding-job": {"one_single_threaded_worker_tasks_per_s": 1000.0},
        "store": {"lmdb": {"bulk_rows_per_s": 100_000.0, "bytes_per_row": 200.0}},
    }
    command = [
        sys.executable,
        str(checkout / "benchmarks" / "scaling.py"),
        "--json",
        "--rows-per-member=36",
        "--changed=0.36",
    ]
    for name, content in reports.items():
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(content))
        command.append(f"--{name}={path}")
    done = subprocess.run(
        [*command, "--core-hour-price=0.1"], check=True, capture_output=True, text=True
    )
    first, *_, last = json.loads(done.stdout)["table"]
    assert first == pytest.approx(
        {
            "members": 1e7,
            "build_tasks_core_hours": 1.0,
            "embed_core_hours": 1.0,
            "store_load_hours": 100 / 3600,
            "store_gigabytes": 2.0,
            "price": 0.2,
        }
    )
    assert last["members"] == 1e9
    assert last["price"] == pytest.approx(100 * first["price"])
