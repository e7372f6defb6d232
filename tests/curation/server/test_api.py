"""The service's API: who may do what, what it answers, and that nothing a client sends ends in a stack trace."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from curation import api as stages
from curation.server import access as server_access
from curation.server.access import Access, load_access
from curation.server.app import make_app
from curation.store import reviews
from curation.store.database import open_store
from curation.store.reviews import StoredAnswer
from tests.support.projects import Bed, blank, import_plain, score_by_hand


@pytest.fixture
def garden(tmp_path: Path) -> Bed:
    bed = Bed(blank(tmp_path / "garden"), tmp_path)
    import_plain(bed.folder, 6)
    score_by_hand(bed.folder)
    stages.decide(bed.folder)
    return bed


@pytest.fixture
def access(garden: Bed) -> Access:
    return load_access(garden.folder)


@pytest.fixture
def page(garden: Bed, access: Access) -> TestClient:
    """A client without a session. The loop that pulls does not run."""
    return TestClient(make_app(garden.folder, every=3600, access=access), base_url="http://127.0.0.1")


def bearer(access: Access, role: str = "owner") -> dict[str, str]:
    return {"Authorization": f"Bearer {access.tokens[role]}"}  # type: ignore[index]


def log_in(page: TestClient, token: str) -> dict[str, str]:
    """Log in as the page does and return the headers of its changing requests."""
    reply = page.post("/api/login", json={"token": token})
    assert reply.status_code == 200, reply.text
    return {"X-CSRF-Token": reply.json()["csrf"]}


def test_every_route_but_the_open_ones_needs_a_role(page: TestClient, access: Access) -> None:
    paths = page.get("/api/docs.json").json()["paths"]
    assert set(paths) >= {"/api/rows", "/api/overview", "/api/override", "/api/events"}
    for path, methods in paths.items():
        for method in methods:
            reply = page.request(method, path.replace("{identity}", "abcdef"), json={})
            expected = 422 if path == "/api/login" else 401
            assert reply.status_code == expected, (method, path)
            assert page.request(method, path, headers={"Authorization": "Bearer wrong"}, json={}).status_code == expected
    for role, status in (("viewer", 403), ("curator", 200), ("owner", 200)):
        body = {"action": "drop", "reason": "x", "where": "seq = 1"}
        assert page.post("/api/override", json=body, headers=bearer(access, role)).status_code == status, role
        assert page.get("/api/rows", headers=bearer(access, role)).status_code == 200


def test_tokens_are_private_files_and_differ(garden: Bed, access: Access) -> None:
    assert len(set(access.tokens.values())) == 3
    for name in ("serve.token", "serve.curator.token", "serve.viewer.token"):
        assert (garden.folder / name).stat().st_mode & 0o777 == 0o600
    assert load_access(garden.folder).tokens == access.tokens


def test_the_link_logs_in_once(page: TestClient, access: Access, monkeypatch: pytest.MonkeyPatch) -> None:
    code = access.make_code()
    log_in(page, code)
    assert page.get("/api/session").json()["role"] == "owner"
    page.cookies.clear()
    assert page.post("/api/login", json={"token": code}).status_code == 401
    monkeypatch.setattr(server_access, "CODE_S", -1.0)
    assert page.post("/api/login", json={"token": access.make_code()}).status_code == 401


def test_a_change_needs_the_token_that_other_sites_cannot_read(page: TestClient, access: Access, garden: Bed) -> None:
    headers = log_in(page, access.tokens["curator"])
    cookie = next(cookie for cookie in page.cookies.jar)
    assert cookie.has_nonstandard_attr("HttpOnly") and cookie.get_nonstandard_attr("SameSite") == "strict"
    body = {"action": "drop", "reason": "x", "where": "seq = 1", "confirmed": True}
    for wrong in ({}, {"X-CSRF-Token": "x"}):
        assert page.post("/api/override", json=body, headers=wrong).status_code == 403
    assert garden.verdicts()[1] == "to_review"
    assert page.post("/api/override", json=body, headers=headers).json()["verdicts"] == {"dropped": 1}
    assert page.post("/api/logout", headers=headers).status_code == 204
    assert page.get("/api/session").status_code == 401


def test_behind_tls_the_cookie_travels_only_there(garden: Bed, access: Access) -> None:
    for scheme, secure in (("http", False), ("https", True)):
        page = TestClient(make_app(garden.folder, every=3600, access=access), base_url=f"{scheme}://127.0.0.1")
        log_in(page, access.tokens["viewer"])
        assert next(cookie for cookie in page.cookies.jar).secure is secure


def test_guessing_is_slowed_down(page: TestClient, access: Access) -> None:
    seen = [page.post("/api/login", json={"token": "guess"}).status_code for _ in range(12)]
    assert seen == [401] * 10 + [429] * 2
    assert page.post("/api/login", json={"token": access.tokens["owner"]}).status_code == 429


def test_a_session_ends(page: TestClient, access: Access, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_access, "SESSION_S", -1.0)
    log_in(page, access.tokens["owner"])
    assert page.get("/api/session").status_code == 401


def test_a_foreign_host_name_is_refused_and_every_response_forbids_inline_scripts(page: TestClient, access: Access) -> None:
    for path in ("/", "/rows", "/rows/abc", "/api/rows", "/static/app.js", "/static/style.css", "/static/icon.svg", "/healthz"):
        reply = page.get(path, headers=bearer(access))
        policy = reply.headers["content-security-policy"]
        assert "script-src 'self'" in policy and "unsafe" not in policy and "default-src 'none'" in policy
        assert reply.headers["x-content-type-options"] == "nosniff"
        assert page.get(path, headers={**bearer(access), "Host": "evil.example"}).status_code == 400
    assert page.get("/static/..%2fapp.py").status_code == page.get("/static/app.py").status_code == 404
    assert 'onclick="' not in page.get("/").text and "style=" not in page.get("/").text


def test_rows_groups_and_histograms(page: TestClient, access: Access, garden: Bed) -> None:
    def get(path: str, **query: Any) -> Any:
        reply = page.get(f"/api/{path}", params=query, headers=bearer(access, "viewer"))
        assert reply.status_code == 200, reply.text
        return reply.json()

    found = get("rows", where="seq > 2", order="-seq", limit=2, offset=1, columns=["seq", "verdict"])
    assert found == {
        "total": 6,
        "found": 4,
        "current": True,
        "rows": [{"seq": 5, "verdict": "to_review"}, {"seq": 4, "verdict": "to_review"}],
    }
    assert get("groups", by="verdict") == [{"value": "to_review", "rows": 6, "mean_score": 10.0, "approved": 0, "dropped": 0}]
    assert get("histogram", column="seq", bins=2) == [{"low": 1, "high": 4, "rows": 3}, {"low": 4, "high": 7, "rows": 3}]
    assert {column["name"]: column["meaning"] for column in get("columns")}["verdict"].startswith("to_review")
    assert get("overview")["verdicts"] == {"to_review": 6}
    row = garden.rows()[0]
    story = get(f"rows/{row.id[:12]}")
    assert (story["id"], story["verdict"]["verdict"]) == (row.id, "to_review")
    assert [one["value"] for one in story["scores"]] == [5] * 5


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_a_file_holds_what_is_shown(page: TestClient, access: Access, ending: str) -> None:
    import pyarrow.parquet as pq

    query = {"ending": ending, "where": "seq < 3", "order": "-seq", "columns": ["seq", "verdict"]}
    reply = page.get("/api/export", params=query, headers=bearer(access))
    assert reply.headers["content-disposition"] == f'attachment; filename="rows.{ending}"'
    if ending == "parquet":
        found = pq.read_table(io.BytesIO(reply.content)).to_pylist()
    else:
        lines = reply.text.splitlines()
        found = list(csv.DictReader(lines)) if ending == "csv" else [json.loads(line) for line in lines]
    assert [(int(row["seq"]), row["verdict"]) for row in found] == [(2, "to_review"), (1, "to_review")]


def test_rows_are_changed_by_list_and_condition_and_taken_back(page: TestClient, access: Access, garden: Bed) -> None:
    def post(path: str, **body: Any) -> Any:
        return page.post(f"/api/{path}", json=body, headers=bearer(access))

    def dropped() -> int:
        return page.get("/api/rows", params={"where": "verdict = 'dropped'", "fresh": True}, headers=bearer(access)).json()["found"]

    rows = garden.rows()
    assert post("override", action="drop", reason="odd", ids=[rows[0].id, rows[4].id], confirmed=True).json()["out"] == 2
    assert dropped() == 2
    assert post("override", action="drop", reason="odd", where="seq > 0").json()["out"] == 0  # counted only
    assert dropped() == 2
    assert post("undo").json()["out"] == 2 and dropped() == 0
    for wrong, message in (
        ({"ids": [rows[0].id], "where": "true"}, "either a list of rows or a condition"),
        ({}, "either a list of rows or a condition"),
        ({"where": "score <"}, "syntax error"),
        ({"ids": ["0" * 64]}, "belongs to no row of this project"),
    ):
        reply = post("override", action="drop", reason="odd", confirmed=True, **wrong)
        assert reply.status_code == 400 and message in reply.json()["detail"], wrong
    assert post("override", action="burn", reason="odd", where="true").status_code == 422


@pytest.mark.parametrize(
    ("path", "query", "status"),
    [
        ("rows", {"where": "seq ="}, 400),
        ("rows", {"order": "colour"}, 400),
        ("rows", {"columns": "seq; DROP TABLE rows"}, 400),
        ("rows", {"where": "id IN (SELECT content FROM read_text('/etc/passwd'))"}, 400),
        ("rows", {"limit": 0}, 422),
        ("rows", {"limit": 100_000}, 422),
        ("groups", {"by": "colour"}, 400),
        ("groups", {}, 422),
        ("histogram", {"column": "prompt"}, 400),
        ("rows/zz", {}, 400),
        ("rows/%00%00%00%00%00%00", {}, 400),
        ("rows/ffffffff", {}, 400),
        ("export", {"ending": "exe"}, 422),
        ("export", {"ending": "csv", "where": "1 = 1; SELECT 2"}, 400),
    ],
)
def test_what_cannot_be_answered_is_a_sentence(page: TestClient, access: Access, path: str, query: dict[str, Any], status: int) -> None:
    reply = page.get(f"/api/{path}", params=query, headers=bearer(access))
    assert reply.status_code == status and "Traceback" not in reply.text and reply.json()["detail"]


def test_the_table_follows_the_project(page: TestClient, access: Access, garden: Bed) -> None:
    def found(**query: Any) -> dict[str, Any]:
        value: dict[str, Any] = page.get("/api/rows", params=query, headers=bearer(access)).json()
        return value

    assert found()["total"] == 6
    import_plain(garden.folder, 9, "more.jsonl")
    stages.decide(garden.folder)
    assert found(fresh=True)["total"] == 9
    stages.status(garden.folder)  # which changes nothing
    assert found()["current"]


def test_cuts_are_previewed_by_anybody_and_written_by_the_owner(page: TestClient, access: Access, garden: Bed) -> None:
    def post(path: str, role: str = "viewer", **body: Any) -> Any:
        return page.post(f"/api/{path}", json=body, headers=bearer(access, role))

    assert page.get("/api/cuts", headers=bearer(access)).json()["threshold"] == 7.0
    found = post("what-if", threshold=10).json()
    assert (found["before"]["passing"], found["after"]["passing"], found["changed"]) == (6, 6, 0)
    assert post("what-if", overlap=3).json()["after"]["answers"] == 18
    assert post("what-if", threshold=11).status_code == 400 and post("what-if", colour=1).status_code == 422
    assert post("cuts", "curator", overlap=3).status_code == 403
    assert post("cuts", "owner", overlap=3).json()["written"] == {"review": {"overlap": 3}}
    assert page.get("/api/cuts", headers=bearer(access)).json()["overlap"] == 3
    assert post("what-if").json()["before"]["answers"] == 18  # the change is known without another stage


def test_a_dispute_is_settled_without_seeing_names_unless_asked(page: TestClient, access: Access, garden: Bed) -> None:
    with open_store(garden.folder) as db:
        row = garden.rows()[0]
        given = [("ada", "approve", ""), ("bob", "reject", "ada is wrong here")]
        values = [{"verdict": says, "edited_completion": "", "comment": comment} for _, says, comment in given]
        answers = [
            StoredAnswer(f"r:{u}", "t", row.seq, u, "submitted", v, "", "", False) for (u, _, _), v in zip(given, values, strict=True)
        ]
        reviews.add_answers(db, answers, 1)
    stages.decide(garden.folder)
    assert page.get("/api/disputes", headers=bearer(access, "viewer")).status_code == 403
    blind = page.get("/api/disputes", headers=bearer(access, "curator"))
    (found,) = blind.json()["disputes"]
    assert found["id"] == row.id and {one["says"] for one in found["answers"]} == {"approve", "reject"}
    assert "ada" not in blind.text.replace(row.id, "") and "bob" not in blind.text.replace(row.id, "")
    named = page.get("/api/disputes", params={"names": True}, headers=bearer(access, "curator")).json()["disputes"][0]
    assert {one["reviewer"] for one in named["answers"]} == {"ada", "bob"} and named["choices"] == ["approve", "reject"]
    body = {"id": row.id, "choice": "approve", "reason": "looked it up"}
    assert page.post("/api/settle", json={**body, "choice": "second"}, headers=bearer(access)).status_code == 400
    assert page.post("/api/settle", json=body, headers=bearer(access, "curator")).json()["verdict"] == "approved"
    assert page.get("/api/disputes", headers=bearer(access)).json()["disputes"] == []
