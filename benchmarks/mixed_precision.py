"""Trains the default recipe in float32 and in mixed precision on a small simulated world.

    python benchmarks/mixed_precision.py [--json] [--members 600] [--epochs 6] [--seeds 3]
        [--device cpu|gpu] [--tasks TASKS]

With `--tasks` the task records are read from this folder instead, which `limaml prepare` wrote.

Reported are, for each dtype policy, the mean over the seeds of the test AUC after adaptation, its
standard deviation, and its difference from float32 with the standard error, paired by seed.
`within_noise` is true if no difference exceeds three standard errors; the standard error is at
least that of the difference of two float32 means over as many seeds.

Keys: `device`, `members` (without `--tasks`), `seeds`, and for each policy (`float32`,
`mixed_bfloat16`, `mixed_float16`) `auc`, `auc_sd`, `difference`, `standard_error` and
`within_noise`.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import statistics
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
from command_line import parser_of, positive
from training import choose_device

from tfrec_limaml import TrainOptions, task_dataset, train
from tfrec_limaml.cli import main as limaml
from tfrec_limaml.training.recipes import load_encoder

POLICIES = ("float32", "mixed_bfloat16", "mixed_float16")


def make_tasks(folder, members):
    """Task records of a simulated world."""
    raw, tasks = folder / "raw", folder / "tasks"
    with contextlib.redirect_stdout(sys.stderr):
        for arguments in (
            ["datasets", "prepare", "simulated", "--members", members, "--output", raw],
            ["prepare", raw, "--output", tasks],
        ):
            if limaml([str(argument) for argument in arguments]):
                raise SystemExit(f"limaml {arguments[0]} failed")
    return tasks


def test_auc(tasks, policy, epochs, seed):
    """Test AUC after adaptation of a model that was trained under a policy."""
    keras.utils.clear_session()
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        value = _trained_auc(tasks, epochs, seed)
    finally:
        keras.config.set_dtype_policy(before)
    print(f"{policy}, seed {seed}: {value:.4f}", file=sys.stderr)
    return value


def _trained_auc(tasks, epochs, seed):
    options = TrainOptions(epochs=epochs, patience=epochs, choose_strength=False)
    trained = train(tasks, options.replace(id_embeddings=False, seed=seed))
    test = task_dataset(f"{tasks}/member/test-*", load_encoder(tasks), 256)
    return trained.model.evaluate(test, return_dict=True, verbose=0)["auc"]


def measure(tasks, members, epochs, seeds):
    with tempfile.TemporaryDirectory() as name:
        tasks = tasks or make_tasks(Path(name), members)
        aucs = {
            policy: [test_auc(tasks, policy, epochs, seed) for seed in range(1, seeds + 1)]
            for policy in POLICIES
        }
    plain = aucs["float32"]
    spread = statistics.stdev(plain) * math.sqrt(2 / seeds)
    result = {"seeds": seeds}
    for policy, values in aucs.items():
        differences = [a - b for a, b in zip(values, plain, strict=True)]
        error = statistics.stdev(differences) / math.sqrt(seeds)
        result[policy] = {
            "auc": statistics.mean(values),
            "auc_sd": statistics.stdev(values),
            "difference": statistics.mean(differences),
            "standard_error": error,
            "within_noise": abs(statistics.mean(differences)) <= 3 * max(error, spread),
        }
    return result


def main():
    parser = parser_of(__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--device", choices=("cpu", "gpu"), default="cpu")
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--members", type=positive, default=600)
    source.add_argument("--tasks", type=Path, help="folder written by `limaml prepare`")
    parser.add_argument("--epochs", type=positive, default=6)
    parser.add_argument("--seeds", type=positive, default=3)
    args = parser.parse_args()
    if args.seeds < 2:
        parser.error(f"--seeds must be at least 2, received {args.seeds}")
    result = {"device": choose_device(args.device)}
    if args.tasks is None:
        result["members"] = args.members
    result |= measure(args.tasks, args.members, args.epochs, args.seeds)
    lines = (f"{name:16} {value}" for name, value in result.items())
    print(json.dumps(result) if args.json else "\n".join(lines))


if __name__ == "__main__":
    main()
