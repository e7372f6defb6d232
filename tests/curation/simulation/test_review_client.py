"""The simulated annotators' client against a minimal Argilla API over real HTTP, so that the default tier covers it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pyarrow.parquet as pq
import pytest

from curation.errors import ReviewError
from curation.simulation.annotators import DISCLOSURE, Annotator, ReviewRates, true_error_rates
from curation.simulation.code_table import CodeTable
from curation.simulation.review_client import simulate_reviews
from tests.support.icd_samples import TABLE, answer_lines

SHOWN = "Standing instruction: Assign the ICD-10-CM code.\n\n"
GOOD = {
    "prompt": f"{SHOWN}Seen on telemetry: second degree block, type I and II",
    "completion": answer_lines("I44.1", "“Second degree block” decides."),
}


class Argilla:
    """The part of Argilla's API that one annotator uses."""

    def __init__(self) -> None:
        self.records = {
            f"uuid-{n}": {"id": f"uuid-{n}", "external_id": f"{n:064x}", "status": "pending", "fields": dict(GOOD)} for n in range(250)
        }
        self.records["uuid-7"]["status"] = "completed"
        self.answers: dict[str, Any] = {}
        self.refused: list[str] = ["uuid-9"]

    def reply(self, method: str, path: str, body: dict[str, Any], offset: int, limit: int) -> tuple[int, Any]:
        if path == "/api/v1/me/workspaces":
            return 200, {"items": [{"id": "w1", "name": "demo"}, {"id": "w2", "name": "other"}]}
        if path == "/api/v1/me/datasets":
            datasets = [
                ("d1", "demo-instruction", "w1", "ready"),
                ("d2", "demo-instruction", "w2", "ready"),
                ("d3", "demo-draft", "w1", "draft"),
            ]
            return 200, {"items": [dict(zip(("id", "name", "workspace_id", "status"), d, strict=True)) for d in datasets]}
        if path == "/api/v1/me/datasets/d1/records/search":
            assert body["filters"]["and"][0]["values"] == ["pending"]
            pending = [r for key, r in self.records.items() if key not in self.answers]
            return 200, {"items": [{"record": r} for r in pending[offset : offset + limit]], "total": len(pending)}
        record = path.split("/")[4]
        if method == "POST" and path.endswith("/responses"):
            if record in self.answers or record in self.refused:
                self.answers.setdefault(record, None)
                return 409, {"detail": "already answered"}
            self.answers[record] = body
            return 201, {"id": "r"}
        return 404, {}


@pytest.fixture
def argilla() -> Iterator[tuple[Argilla, str]]:
    state = Argilla()

    class Handler(BaseHTTPRequestHandler):
        def do(self) -> None:
            from urllib.parse import parse_qs, urlsplit

            parts = urlsplit(self.path)
            query = parse_qs(parts.query)
            raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, value = 401, {}
            if self.headers.get("X-Argilla-Api-Key") == "key-one":
                paging = (int(query.get("offset", ["0"])[0]), int(query.get("limit", ["50"])[0]))
                status, value = state.reply(self.command, parts.path, json.loads(raw or b"{}"), *paging)
            body = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = do

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield state, f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def review(url: str, tmp_path: Path, **changes: Any) -> Any:
    pq.write_table(TABLE, tmp_path / "t.parquet")
    options: dict[str, Any] = {"name": "simulated-one", "api_key": "key-one", "workspace": "demo", **changes}
    annotator = Annotator(options["name"], 7, ReviewRates(), CodeTable.read(tmp_path / "t.parquet"))
    datasets, log = ["demo-instruction", "not-there"], tmp_path / "log"
    return simulate_reviews(annotator, url, options["api_key"], workspace=options["workspace"], datasets=datasets, log=log)


def test_all_that_is_pending_is_answered_once_and_nothing_on_a_second_run(argilla: tuple[Argilla, str], tmp_path: Path) -> None:
    state, url = argilla
    summary = review(url, tmp_path)
    given = {key: value for key, value in state.answers.items() if value is not None}
    assert summary.answered == len(given) == 248 and "uuid-7" not in given, "250 less one completed and one answered by another run"
    assert all(body["status"] == "submitted" and body["values"]["comment"]["value"] == DISCLOSURE for body in given.values())
    truth = [json.loads(line) for line in (tmp_path / "log" / "review-truth.jsonl").read_text().splitlines()]
    assert {t["record_id"] for t in truth} == {state.records[key]["external_id"] for key in given}
    assert {t["annotator"] for t in truth} == {"simulated-one"} and sum(t["error"] is not None for t in truth) == summary.errors
    rates = true_error_rates(tmp_path / "log")
    assert rates["wrong_approvals"] is None and rates["wrong_rejections"] == rates["errors"] == summary.errors / 248
    assert review(url, tmp_path).answered == 0 and len(state.answers) == 249


def test_a_name_that_could_be_a_persons_a_wrong_key_and_a_foreign_workspace_are_refused(
    argilla: tuple[Argilla, str], tmp_path: Path
) -> None:
    url = argilla[1]
    with pytest.raises(ReviewError, match="simulated-"):
        review(url, tmp_path, name="anna")
    with pytest.raises(ReviewError, match="401"):
        review(url, tmp_path, api_key="nope")
    with pytest.raises(ReviewError, match="demo, other"):
        review(url, tmp_path, workspace="elsewhere")
    with pytest.raises(ReviewError, match="cannot be reached"):
        review("http://127.0.0.1:9", tmp_path)
