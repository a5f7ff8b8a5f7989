"""Small made-up data in the official formats, and the folder of the real log."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from tfrec_limaml.datasets.conform import conform
from tfrec_limaml.datasets.raw import RawData
from tfrec_limaml.schema.schema import Schema

ONE_HOT = [f"onehot_feat{i}" for i in range(18)]


@pytest.fixture(scope="session")
def kuairand_dir(real_data_directory):
    """Folder that contains KuaiRand-Pure/; skips the test with the way to get it if missing."""
    return real_data_directory


@pytest.fixture
def tiny_kuairand(tmp_path):
    """A folder that holds KuaiRand-Pure/; see `write_kuairand`."""
    return write_kuairand(tmp_path / "official", "KuaiRand-Pure")


def write_kuairand(folder, release, parts=("",)):
    """Writes a release in the official layout: 3 users, 4 videos, 40 rows and a duplicate.

    There are two logs, whose rows go to their parts in turn.
    """
    data, suffix = folder / release / "data", release.removeprefix("KuaiRand-").lower()
    data.mkdir(parents=True)

    def write(rows, log):
        for number, part in enumerate(parts):
            rows.iloc[number :: len(parts)].to_csv(
                data / f"log_standard_{log}_{suffix}{part}.csv", index=False
            )

    start = int(pd.Timestamp("2022-04-20T00:00:00+08:00").timestamp() * 1000)
    rows = pd.DataFrame({"n": range(40)})
    log = pd.DataFrame(
        {
            "user_id": rows.n % 3,
            "video_id": rows.n % 4,
            "date": 20220420,
            "hourmin": 0,
            "time_ms": start + rows.n * 11 * 3_600_000,  # 40 rows over 18 days
            "is_click": rows.n % 2,
            "is_like": (rows.n % 5 == 0).astype(int),
            "is_follow": 0,
            "is_comment": 0,
            "is_forward": 0,
            "is_hate": 0,
            "long_view": (rows.n % 3 == 0).astype(int),
            "play_time_ms": 10 * rows.n,
            "duration_ms": 5000 + rows.n,
            "profile_stay_time": 0,
            "comment_stay_time": 0,
            "is_profile_enter": 0,
            "is_rand": 0,
            "tab": rows.n % 2,
        }
    )
    write(log.iloc[:4], "4_08_to_4_21")
    write(pd.concat([log.iloc[4:], log.iloc[[7]]]), "4_22_to_5_08")
    log.assign(time_ms=log.time_ms + 1, is_rand=1).to_csv(
        data / f"log_random_4_22_to_5_08_{suffix}.csv", index=False
    )
    users = {
        "user_id": [0, 1, 2],
        "user_active_degree": ["full_active", "full_active", "UNKNOWN"],
        "is_live_streamer": [-124, 1, -124],
    }
    users |= {
        c: [1, 2, 3]
        for c in ("follow_user_num", "fans_user_num", "friend_user_num", "register_days")
    }
    pd.DataFrame(
        {
            **users,
            "is_video_author": 0,
            **dict.fromkeys(ONE_HOT, 1),
            "onehot_feat4": [1.0, np.nan, 2.0],
        }
    ).to_csv(data / f"user_features_{suffix}.csv", index=False)
    videos = {
        "video_id": [0, 1, 2, 3],
        "author_id": [10, 11, 12, 12],
        "tag": ["1,2", "2", None, "3"],
        "music_type": [9.0, None, 4.0, 9.0],
    }
    fixed = {
        "video_type": "NORMAL",
        "upload_dt": "2022-04-10",
        "upload_type": "Web",
        "server_width": 720.0,
        "server_height": 1280.0,
    }
    pd.DataFrame({**videos, **fixed}).to_csv(
        data / f"video_features_basic_{suffix}.csv", index=False
    )
    return folder


@pytest.fixture
def own_schema():
    """A schema dictionary that fits `own_frame`."""
    return {
        "name": "shop",
        "label": {"name": "bought"},
        "timestamp": "at",
        "timestamp_unit": "s",
        "tasks": {"user": ["user_id"]},
        "features": [
            {"name": "price", "dtype": "float32"},
            {"name": "category", "dtype": "string", "encoding": "vocabulary"},
            {"name": "age", "role": "meta", "dtype": "int64", "table": "users"},
        ],
        "tables": {"users": "user_id"},
        "split": {"validation_start": "2024-01-08", "test_start": "2024-01-09"},
    }


@pytest.fixture
def own_frame():
    """40 interactions of 4 users over ten days, as text, as they are read from a CSV file."""
    start = int(pd.Timestamp("2024-01-01", tz="UTC").timestamp())
    rows = range(40)
    return pd.DataFrame(
        {
            "user_id": [f"00{n % 4}" for n in rows],
            "at": [str(start + n * 6 * 3600) for n in rows],
            "bought": [str(n % 2) for n in rows],
            "price": [f"{n}.5" for n in rows],
            "category": ["tea" if n % 3 else "Süßes|more" for n in rows],
            "remark": "kept out",
        }
    )


@pytest.fixture
def own_users():
    return pd.DataFrame({"user_id": ["000", "001", "002", "003"], "age": ["20", "30", "40", None]})


@pytest.fixture
def checked(own_schema, own_frame, own_users):
    """Runs `conform` with some things changed."""

    def run(frame=None, users=None, **changes):
        schema = Schema.from_dict({**own_schema, **changes})
        tables = {"users": own_users if users is None else users} if schema.tables else {}
        return conform(
            RawData(
                schema=schema, interactions=own_frame if frame is None else frame, tables=tables
            )
        )

    return run
