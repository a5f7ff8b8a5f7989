import pandas as pd
import pytest

from tfrec_limaml import datasets
from tfrec_limaml.errors import SchemaError
from tfrec_limaml.schema.schema import Schema

RATINGS = [(1 + n % 2, 1 + n % 3, 1 + n % 5, 880_000_000 + 3600 * n) for n in range(30)]


def release_100k(folder):
    genres = ["unknown", "Action", "Comedy"]
    (folder / "u.genre").write_text("".join(f"{g}|{i}\n" for i, g in enumerate(genres)) + "\n")
    (folder / "u.data").write_text("".join("\t".join(map(str, r)) + "\n" for r in RATINGS))
    (folder / "u.user").write_text("1|24|M|technician|02138\n2|53|F|other|T8H1N\n")
    films = "1|Été (1995)|01-Jan-1995||http://x|0|1|1\n2|Two (1996)|||http://x|1|0|0\n3|unknown|||http://x|0|0|1\n"
    (folder / "u.item").write_bytes(films.encode("latin-1"))


def release_1m(folder):
    (folder / "ratings.dat").write_text("".join("::".join(map(str, r)) + "\n" for r in RATINGS))
    (folder / "users.dat").write_text("1::M::25::10::02138\n2::F::1::3::T8H1N\n")
    films = "1::Été (1995)::Action|Comedy\n2::Two, The (1996)::unknown\n3::unknown::Comedy\n"
    (folder / "movies.dat").write_bytes(films.encode("latin-1"))


def release_latest(folder):
    lines = [f"{u},{m},{r - 0.5},{t}\n" for u, m, r, t in RATINGS]
    (folder / "ratings.csv").write_text("userId,movieId,rating,timestamp\n" + "".join(lines))
    films = '1,Été (1995),Action|Comedy\n2,"Two, The (1996)",(no genres listed)\n3,unknown,Comedy\n'
    (folder / "movies.csv").write_text("movieId,title,genres\n" + films)


RELEASES = {
    "movielens-100k": ("ml-100k", release_100k),
    "movielens-1m": ("ml-1m", release_1m),
    "movielens-latest-small": ("ml-latest-small", release_latest),
}


@pytest.fixture(params=RELEASES)
def prepared(request, tmp_path):
    """Writes a made-up release in its official format and prepares it."""
    folder, write = RELEASES[request.param]
    (tmp_path / folder).mkdir()
    write(tmp_path / folder)

    def run(**options):
        card = datasets.prepare(
            request.param, tmp_path / "raw", data_dir=tmp_path, overwrite=True, **options
        )
        frames = {
            name: pd.read_parquet(tmp_path / "raw" / f"{name}.parquet")
            for name in ("interactions", "movies")
        }
        return card, Schema.load(tmp_path / "raw" / "schema.yaml"), frames

    run.name = request.param
    run.folder = tmp_path / folder
    return run


def test_ratings_films_and_times_are_read_from_every_release(prepared):
    card, schema, frames = prepared()
    assert card["rows"] == 30
    assert card["tasks"] == 2
    assert card["time_span"][0] == "1997-11-20T04:26:40+00:00"
    movies = frames["movies"].set_index(frames["movies"].movie_id.astype(str))
    assert movies.genres["1"] == "Action|Comedy"
    assert movies.year.tolist()[:2] == [1995.0, 1996.0]
    assert pd.isna(movies.year["3"])
    assert any(f.role == "meta" for f in schema.features)


def test_a_film_is_liked_from_four_stars_on(prepared):
    _, _, frames = prepared()
    stars = [r - 0.5 * (prepared.name == "movielens-latest-small") for _, _, r, _ in RATINGS]
    assert frames["interactions"].liked.tolist() == [float(s >= 4.0) for s in stars]


def test_the_rating_itself_can_be_the_label(prepared):
    card, schema, frames = prepared(label="rating", history=True)
    assert schema.label.kind == "regression"
    assert frames["interactions"].rating.between(0.5, 5.0).all()
    assert card["label_mean"] == pytest.approx(frames["interactions"].rating.mean())
    assert ("user_id",) in {h.keys for h in schema.history}


def test_the_last_tenths_of_the_ratings_validate_and_test(prepared):
    assert prepared()[0]["split"]["rows"] == {"train": 24, "validation": 3, "test": 3}


def test_a_broken_file_is_a_schema_error(prepared):
    for path in prepared.folder.iterdir():
        if "rating" in path.name or path.name == "u.data":
            path.write_text("")
    with pytest.raises(SchemaError, match=r"cannot read the files|no rows"):
        prepared()


def test_members_become_a_feature_once(prepared):
    plain = prepared()[1].features
    declared = prepared(id_feature=True)[1].features
    assert [feature.name for feature in declared].count("user_id") == 1
    assert [feature for feature in declared if feature.name != "user_id"] == [
        f for f in plain if f.name != "user_id"
    ]
    (member,) = [feature for feature in declared if feature.name == "user_id"]
    assert (member.role, member.encoding, member.embedding_width) == ("meta", "vocabulary", 16)


def test_a_folder_that_lacks_one_of_the_files_is_named_and_nothing_is_downloaded(
    tmp_path, monkeypatch
):
    folder = tmp_path / "ml-100k"
    folder.mkdir()
    release_100k(folder)
    (folder / "u.genre").unlink()

    def no_network(*_):
        raise AssertionError("nothing is to be downloaded")

    monkeypatch.setattr("tfrec_limaml.datasets.download.fetch", no_network)
    for data_dir in (tmp_path, folder):
        with pytest.raises(SchemaError, match=r"ml-100k lacks \['u.genre'\]"):
            datasets.prepare("movielens-100k", tmp_path / "raw", data_dir=data_dir)
