"""A toy world of users and videos: records of both definitions, and a small joint model."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
from toys import write_description, write_split

from tfrec_limaml.schema.schema import Feature, Label, Schema, Split
from tfrec_limaml.tasks.record_format import encode_task, key_list
from tfrec_limaml.tasks.statistics import Statistics

SCHEMA = Schema(
    name="joint",
    label=Label(name="click"),
    timestamp="time",
    tasks={"user": ("user_id",), "video": ("video_id",)},
    features=(
        Feature(name="x", role="meta", width=2, normalise="none"),
        Feature(name="z", width=2, normalise="none"),
    ),
)
STATISTICS = Statistics(rows=1, label_mean=0.5, window={}, features={})
#: End of the training period: the times of all rows are below it.
END = 100_000


@dataclasses.dataclass(frozen=True)
class JointWorld:
    """Rows in time order, one entry each."""

    user: np.ndarray
    video: np.ndarray
    time: np.ndarray
    label: np.ndarray
    x: np.ndarray
    z: np.ndarray

    @classmethod
    def draw(cls, users: int, videos: int, rows: int, seed: int = 0) -> JointWorld:
        """A world of random rows; labels are noise."""
        draw = np.random.default_rng(seed)
        user, video = draw.integers(0, users, rows), draw.integers(0, videos, rows)
        return cls(
            user=user,
            video=video,
            time=np.sort(draw.permutation(END)[:rows]),
            label=draw.integers(0, 2, rows).astype(np.float64),
            x=draw.normal(size=(users, 2))[user],
            z=draw.normal(size=(videos, 2))[video],
        )

    def replace(self, **changes: Any) -> JointWorld:
        """A copy with other columns."""
        return dataclasses.replace(self, **changes)

    def row(self, i: int) -> dict[str, Any]:
        """One row in the form that `encode_task` takes."""
        return {
            "x": self.x[i].tolist(),
            "z": self.z[i].tolist(),
            "label": self.label[i],
            "timestamp": int(self.time[i]),
            key_list("user"): f"u{self.user[i]}",
            key_list("video"): str(self.video[i]),
        }

    def records(self, side: int) -> list[bytes]:
        """The records of the users (0) or of the videos (1)."""
        ids, prefix, other = ((self.user, "u", "video"), (self.video, "", "user"))[side]
        return [
            encode_task(
                SCHEMA, f"{prefix}{n}", [self.row(i) for i in np.flatnonzero(ids == n)], -1, [other]
            )
            for n in np.unique(ids)
        ]

    def write(self, folder: Path, splits: tuple[str, ...] = ("train",), **split: Any) -> Path:
        """Records of both definitions, all rows in each of the splits."""
        schema = SCHEMA.replace(split=Split(**split)) if split else SCHEMA
        folder.mkdir(parents=True, exist_ok=True)
        write_description(folder, schema, STATISTICS)
        for side, name in enumerate(("user", "video")):
            records = self.records(side)
            for each in splits:
                write_split(folder, name, each, records)
        return folder


def joint_model(width: int = 3, seed: int = 1, **options: Any) -> Any:
    """A model of `SCHEMA` whose random weights are large enough to change its scores.

    Embeddings have `width` numbers and an intercept.
    """
    import keras

    from tfrec_limaml.blocks import BilinearGlobalBlock, JointMetaBlocks, OffsetMetaBlock
    from tfrec_limaml.models import JointLiMAML
    from tfrec_limaml.tasks.feature_encoder import FeatureEncoder

    keras.utils.set_random_seed(seed)
    dtype = options.pop("dtype", "float32")
    blocks = {name: OffsetMetaBlock((4,), width + 1, dtype=dtype) for name in ("user", "video")}
    encoder = FeatureEncoder(SCHEMA, STATISTICS) if dtype == "float32" else None
    model = JointLiMAML(
        JointMetaBlocks(blocks, dtype=dtype),
        BilinearGlobalBlock((5,), "gelu", dtype=dtype),
        encoder=encoder,
        dtype=dtype,
        **{"inner_steps": 2, "averaging": "sample", "unadapted_loss_weight": 1.0, **options},
    )
    if encoder is None:
        model.build({"meta": (None, 2), "other": (None, 2)})
    draw = np.random.default_rng(seed)
    for variable in model.trainable_variables:
        variable.assign(draw.normal(0, 0.5, variable.shape))
    return model
