from __future__ import annotations

import numpy as np
import pytest

from tfrec_limaml.report import EmbeddingMap, MemberStory, RankedItem, Report


@pytest.fixture
def evaluation():
    """Made-up `evaluation.json`: three results over five slices."""

    def cell(name, auc, half, rows):
        return {
            "slice": name,
            "rows": rows,
            "tasks": rows // 7,
            "auc": auc,
            "auc_low": auc - half,
            "auc_high": auc + half,
        }

    slices = [
        ("0", 8000, 0.005),
        ("1-3", 5200, 0.007),
        ("4-10", 4100, 0.008),
        ("11-30", 2500, 0.011),
        ("31+", 900, 0.019),
    ]
    gains = {
        ("vanilla", False): (0, 0, 0, 0, 0),
        ("limaml", False): (0, 0, 0.001, 0, 0.001),
        ("limaml", True): (0, 0.008, 0.02, 0.034, 0.045),
    }
    results = []
    for (algorithm, fine_tune), gain in gains.items():
        cells = [
            cell(n, 0.69 + 0.003 * i + g, h, rows)
            for i, ((n, rows, h), g) in enumerate(zip(slices, gain, strict=True))
        ]
        overall = 0.698 + 0.3 * max(gain)
        results.append(
            {
                "algorithm": algorithm,
                "fine_tune": fine_tune,
                "auc": overall,
                "auc_low": overall - 0.003,
                "auc_high": overall + 0.003,
                "log_loss": 0.61,
                "calibration": 1.01,
                "slices": cells,
            }
        )
    return {"rows": 20700, "tasks": 3100, "bayes_auc": 0.78, "results": results}


@pytest.fixture
def training():
    return [
        {
            "algorithm": "vanilla",
            "history": {"loss": [0.66, 0.63, 0.62, 0.615], "val_auc": [0.65, 0.68, 0.691, 0.69]},
            "seconds": 8.2,
        },
        {
            "algorithm": "limaml",
            "history": {
                "loss": [0.65, 0.62, 0.61, 0.6, 0.594],
                "val_auc": [0.66, 0.69, 0.71, 0.718, 0.717],
            },
            "seconds": 31.0,
        },
    ]


@pytest.fixture
def embedding_map():
    rng = np.random.default_rng(3)
    kinds = ["job", "birthday", "group", "news", "invitation"]
    centres = rng.normal(size=(len(kinds), 16)) * 1.6
    groups = [kinds[i] for i in rng.integers(len(kinds), size=900)]
    vectors = np.stack([centres[kinds.index(g)] for g in groups]) + rng.normal(size=(900, 16))
    return EmbeddingMap(
        embeddings=vectors.astype(np.float32),
        groups=groups,
        meaning="most clicked notification type",
    )


@pytest.fixture
def story():
    rng = np.random.default_rng(5)
    kinds = ["job", "birthday", "group", "news"]
    items = []
    for i in range(10):
        kind = kinds[i % 4]
        base = float(rng.uniform(0.1, 0.5))
        shift = 0.3 if kind == "job" else -0.05
        items.append(
            RankedItem(
                name=f"item {i}", group=kind, without=base, before=base + 0.03, after=base + shift
            )
        )
    return MemberStory(
        task_key="m-17",
        seen=4,
        clicks=["job: clicked", "job: clicked", "news: not clicked"],
        items=items,
    )


@pytest.fixture
def report(training, evaluation, embedding_map, story):
    return Report(
        title="LiMAML on simulated notifications",
        summary="A model that adapts to each member, trained, exported, embedded and served on "
        "this machine.",
        facts=[
            ("vanilla", "0.6980"),
            ("LiMAML, fine-tuned", "0.7115"),
            ("embeddings", "900 in 1.2 s (750 per second)"),
        ],
        training=training,
        evaluation=evaluation,
        embedding_map=embedding_map,
        story=story,
        next_steps=["make demo DATASET=kuairand-pure", "limaml train --help"],
    )
