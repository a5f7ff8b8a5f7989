"""MovieLens: ratings of films by members (GroupLens).

Source: Harper and Konstan, "The MovieLens Datasets: History and Context", ACM TiiS 2015.

The files may not be redistributed: they are always downloaded from the official site. Three
releases are read in their official formats: 100K (tab and ``|`` separated), 1M (``::``) and
latest-small (CSV).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from tfrec_limaml.datasets.locate import locate
from tfrec_limaml.datasets.profile_features import profile_category
from tfrec_limaml.datasets.raw import RawData
from tfrec_limaml.datasets.registry import Dataset, Request
from tfrec_limaml.errors import SchemaError
from tfrec_limaml.schema.schema import Feature, History, Label, Schema

URL = "https://files.grouplens.org/datasets/movielens"
LIKED_FROM = 4.0  # stars

_FILES = {
    "ml-100k": ("u.data", "u.user", "u.item", "u.genre"),
    "ml-1m": ("ratings.dat", "users.dat", "movies.dat"),
    "ml-latest-small": ("ratings.csv", "movies.csv"),
}
_RATINGS = ["user_id", "movie_id", "rating", "timestamp"]
_ITEM = ["movie_id", "title", "release_date", "video_release_date", "url"]


def _load(release: str, request: Request) -> RawData:
    archive = f"{URL}/{release}.zip"
    _check_given(release, request.data_dir, archive)
    folder = locate(
        request.data_dir, release, functools.partial(_complete, release), archive, f"{archive}.md5"
    )
    try:
        ratings, tables = {
            "ml-100k": _read_100k,
            "ml-1m": _read_1m,
            "ml-latest-small": _read_latest,
        }[release](folder)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise SchemaError(
            f"cannot read the files in {folder}: {error}; download {archive} again"
        ) from error
    tables["movies"]["year"] = tables["movies"]["title"].str.extract(
        r"\((\d{4})\)\s*$", expand=False
    )
    if "users" in tables:
        tables["users"]["region"] = tables["users"]["zip_code"].str[0]
    if request.label == "liked":
        ratings["liked"] = (
            (ratings["rating"] >= LIKED_FROM).astype("float32").where(ratings["rating"].notna())
        )
    dataset = next(d for d in DATASETS if d.name == _name(release))
    schema = _schema(dataset, request, release, tables)
    return RawData(
        schema=schema,
        interactions=ratings,
        tables=tables,
        source=dataset.source(files=list(_FILES[release])),
    )


def _check_given(release: str, data_dir: Path | None, archive: str) -> None:
    """Raises `SchemaError` if the user's folder has only some of the files.

    The archive is not downloaded into such a folder.
    """
    for folder in [] if data_dir is None else [data_dir / release, data_dir]:
        missing = [name for name in _FILES[release] if not (folder / name).is_file()]
        if missing and len(missing) < len(_FILES[release]):
            raise SchemaError(
                f"{folder} lacks {missing} of the files {list(_FILES[release])}; download them "
                f"from {archive}"
            )


def _complete(release: str, folder: Path) -> bool:
    return all((folder / name).is_file() for name in _FILES[release])


def _read_100k(folder: Path) -> tuple[pd.DataFrame, dict[str, pd.DataFrame]]:
    read: Callable[..., Any] = functools.partial(
        pd.read_csv, header=None, encoding="latin-1", sep="|"
    )
    genres = read(folder / "u.genre", names=["genre", "index"])["genre"].tolist()
    movies = read(folder / "u.item", names=[*_ITEM, *genres])
    movies["genres"] = [_join_genres(genres, row) for row in movies[genres].to_numpy()]
    users = read(
        folder / "u.user",
        names=["user_id", "age", "gender", "occupation", "zip_code"],
        dtype={"zip_code": str},
    )
    return read(folder / "u.data", names=_RATINGS, sep="\t"), {
        "users": users,
        "movies": movies[["movie_id", "title", "genres"]],
    }


def _join_genres(genres: list[str], flags: Any) -> str:
    return "|".join(genre for genre, flag in zip(genres, flags, strict=True) if flag == 1)


def _read_1m(folder: Path) -> tuple[pd.DataFrame, dict[str, pd.DataFrame]]:
    read: Callable[..., Any] = functools.partial(
        pd.read_csv, header=None, encoding="latin-1", sep="::", engine="python"
    )
    users = read(
        folder / "users.dat",
        names=["user_id", "gender", "age", "occupation", "zip_code"],
        dtype={"zip_code": str},
    )
    movies = read(folder / "movies.dat", names=["movie_id", "title", "genres"])
    return read(folder / "ratings.dat", names=_RATINGS), {"users": users, "movies": movies}


def _read_latest(folder: Path) -> tuple[pd.DataFrame, dict[str, pd.DataFrame]]:
    names = {"userId": "user_id", "movieId": "movie_id"}
    movies = pd.read_csv(folder / "movies.csv").rename(columns=names)
    movies["genres"] = movies["genres"].replace("(no genres listed)", "")
    return pd.read_csv(folder / "ratings.csv").rename(columns=names), {"movies": movies}


def _schema(
    dataset: Dataset, request: Request, release: str, tables: dict[str, pd.DataFrame]
) -> Schema:
    label = (
        Label(name="liked")
        if request.label == "liked"
        else Label(name="rating", kind="regression", minimum=0.5, maximum=5.0)
    )
    return Schema(
        name=dataset.name,
        label=label,
        timestamp="timestamp",
        timestamp_unit="s",
        tasks=dataset.task_columns(request),
        features=(*_user_features(release), *_movie_features()),
        tables={name: {"users": "user_id", "movies": "movie_id"}[name] for name in tables},
        history=tuple(
            History(keys=keys, encoding="quantiles", per_token=True)
            for keys in (("user_id",), ("movie_id",), ("user_id", "genres"))
        )
        if request.history
        else (),
    )


def _user_features(release: str) -> tuple[Feature, ...]:
    if release == "ml-latest-small":  # no columns about members other than their ID
        return (
            Feature(
                name="user_id",
                role="meta",
                dtype="string",
                encoding="vocabulary",
                embedding_width=16,
            ),
        )

    age = (
        profile_category("age", 8, "users")
        if release == "ml-1m"
        else Feature(name="age", encoding="quantiles", role="meta", table="users")
    )  # 1M has age groups
    return (
        profile_category("gender", 2, "users"),
        age,
        profile_category("occupation", 21, "users"),
        profile_category("region", 16, "users"),
    )


def _movie_features() -> tuple[Feature, ...]:
    return (
        Feature(name="movie_id", dtype="string", encoding="vocabulary", embedding_width=16),
        Feature(
            name="genres",
            dtype="string",
            encoding="vocabulary",
            max_vocabulary=20,
            embedding_width=8,
            separator="|",
            table="movies",
        ),
        Feature(name="year", encoding="quantiles", table="movies", fill_value=1990.0),
    )


def _name(release: str) -> str:
    return release.replace("ml-", "movielens-")


def _dataset(release: str, summary: str) -> Dataset:
    return Dataset(
        name=_name(release),
        summary=summary,
        homepage=f"https://grouplens.org/datasets/movielens (archive: {URL}/{release}.zip)",
        licence="GroupLens' own terms: research use, no redistribution without permission (see "
        "the README in the archive)",
        citation="Harper and Konstan, The MovieLens Datasets: History and Context, ACM TiiS 5(4), "
        "2015, doi 10.1145/2827872",
        labels=("liked", "rating"),
        tasks={"user": ("user_id",), "movie": ("movie_id",)},
        load=functools.partial(_load, release),
    )


DATASETS = (
    _dataset(
        "ml-100k", "100,000 ratings by 943 members of 1,682 films, with age, gender and occupation"
    ),
    _dataset(
        "ml-1m",
        "1,000,209 ratings by 6,040 members of 3,706 films, with age group, gender and occupation",
    ),
    _dataset(
        "ml-latest-small",
        "about 100,000 recent ratings by 610 members; without information about the members",
    ),
)
