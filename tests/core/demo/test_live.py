"""The page of ``limaml demo --live``: clicks become interactions, the list waits for its change."""

import http.client
import json
import threading

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tfrec_limaml.demo import live
from tfrec_limaml.demo.live import ClickWriter, LiveList
from tfrec_limaml.demo.live_page import LiveServer
from tfrec_limaml.demo.serving import ranking
from tfrec_limaml.demo.story import Scene
from tfrec_limaml.errors import LimamlError
from tfrec_limaml.schema.schema import Feature, Label, Schema

ITEMS = [{"topic": "a", "size": 1.0}, {"topic": "b", "size": 2.0}, {"topic": "c", "size": 3.0}]
SCHEMA = Schema(
    name="s",
    label=Label(name="clicked"),
    timestamp="t",
    tasks={"user": ("user_id", "kind")},
    features=(
        Feature(name="age", role="meta", table="users"),
        Feature(name="topic", dtype="string", encoding="vocabulary"),
        Feature(name="size"),
    ),
    tables={"users": "user_id"},
)
COLUMNS = {"user_id": pa.int64(), "kind": pa.string(), "topic": pa.string(), "size": pa.int32()}
COLUMNS |= {"clicked": pa.int8(), "note": pa.string(), "t": pa.int64()}
SCENE = Scene(
    key="17|x",
    rows=[{}, {}],
    request={"member": {}, "candidates": ITEMS},
    names=["A", "B", "C"],
    kinds=["a", "b", "c"],
    spare={},
)


def writer(folder, schema=SCHEMA, **types):
    columns = pa.schema(list((COLUMNS | types).items()))
    return ClickWriter(folder=folder, columns=columns, schema=schema, key="17|x")


class Ranker:
    """Each click moves the list one step, a few looks later."""

    def __init__(self, folder, looks=2):
        self.folder, self.looks, self.seen = folder, looks, 0

    def __call__(self, request):
        clicks = len(list(self.folder.glob("*.parquet")))
        self.seen += 1
        moved = clicks if self.seen > self.looks else max(clicks - 1, 0)
        return [0.1 + 0.2 * ((n + moved) % 3) for n in range(3)]


@pytest.fixture
def shown(tmp_path):
    words = [("A", "a"), ("B", "b"), ("C", "c")]
    return LiveList(SCENE, Ranker(tmp_path), writer(tmp_path), words)


@pytest.fixture
def page(shown):
    with LiveServer(shown, 0) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def ask(page, method, path, body=None, kind="application/json"):
    connection = http.client.HTTPConnection("127.0.0.1", page.server_address[1], timeout=30)
    headers = {} if body is None else {"Content-Type": kind}
    connection.request(method, path, body, headers)
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    if path == "/":
        return answer.status, content
    return answer.status, json.loads(content)


@pytest.mark.parametrize(
    ("unit", "kind", "expected"),
    [
        ("ms", pa.int64(), 1_650_000_000_250),
        ("s", pa.int64(), 1_650_000_000),
        ("iso", pa.string(), "2022-04-15T05:20:00Z"),
    ],
)
def test_a_click_is_an_interaction_in_the_data_sets_own_columns(tmp_path, unit, kind, expected):
    schema = SCHEMA.replace(timestamp_unit=unit)
    path = writer(tmp_path, schema, t=kind).write(ITEMS[1], True, 1_650_000_000.25)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    table = pq.read_table(path)
    assert table.to_pylist() == [
        {
            **{"user_id": 17, "kind": "x", "topic": "b", "size": 2, "clicked": 1, "note": None},
            "t": expected,
        }
    ]


def test_the_list_is_in_order_and_a_click_returns_once_it_has_changed(shown):
    before = shown.state()
    assert [row["name"] for row in before["ranked"]] == ["C", "B", "A"]
    assert before["interactions"] == 2
    after = shown.click(0, True)
    assert [row["name"] for row in after["ranked"]] == ["B", "A", "C"]
    (click,) = after["clicks"]
    assert (click["name"], click["clicked"], after["interactions"]) == ("A", True, 3)
    assert click["lag_seconds"] >= 0


def test_a_list_that_does_not_change_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(live, "_CHANGE_SECONDS", 0.1)
    same = LiveList(SCENE, lambda request: [0.1, 0.2, 0.3], writer(tmp_path), [("A", "a")] * 3)
    assert same.click(1, False)["clicks"][0]["lag_seconds"] is None


def test_the_page_its_state_and_a_click(page):
    status, content = ask(page, "GET", "/")
    assert (status, b"<title>LiMAML live</title>" in content) == (200, True)
    assert [row["name"] for row in ask(page, "GET", "/state")[1]["ranked"]] == ["C", "B", "A"]
    status, state = ask(page, "POST", "/click", '{"candidate": 2, "clicked": false}')
    assert (status, state["clicks"][0]["clicked"]) == (200, False)
    assert ask(page, "GET", "/state")[1] == state


@pytest.mark.parametrize(
    ("method", "path", "body", "kind", "status", "said"),
    [
        ("GET", "/../secret", None, "", 404, "no page at"),
        ("POST", "/state", "{}", "application/json", 404, "no page at"),
        ("POST", "/click", '{"candidate": 0}', "text/plain", 400, "application/json"),
        ("POST", "/click", "{", "application/json", 400, "not JSON"),
        ("POST", "/click", "[0]", "application/json", 400, "candidate"),
        ("POST", "/click", '{"candidate": "0"}', "application/json", 400, "candidate"),
        ("POST", "/click", '{"candidate": 3}', "application/json", 400, "between 0 and 2"),
        ("POST", "/click", '{"candidate": -1}', "application/json", 400, "between 0 and 2"),
        ("POST", "/click", " " * 1001, "application/json", 400, "at most 1000 bytes"),
    ],
)
def test_other_requests_are_refused_and_click_nothing(
    page, tmp_path, method, path, body, kind, status, said
):
    found = ask(page, method, path, body, kind)
    assert (found[0], said in found[1]["error"]) == (status, True)
    assert not list(tmp_path.iterdir())


def test_a_port_that_is_taken_is_an_error(page, shown):
    with pytest.raises(LimamlError, match="choose another"):
        LiveServer(shown, page.server_address[1])


def test_a_ranker_that_ends_is_an_error_with_its_reason(tmp_path):
    with (
        ranking("127.0.0.1:1", tmp_path, f"lmdb:{tmp_path}/store", tmp_path / "log") as rank,
        pytest.raises(LimamlError, match=r"did not answer: .*no exported version"),
    ):
        rank({})
