"""Spans of stages and calls, with OpenTelemetry's own in-memory exporter in a process of its own: a provider can be set only once."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.support.messages_server import Act, always_answer, messages_server, prompt_of

CHILD = """
import json, sys
from pathlib import Path
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from curation.models import stage_span
from curation.config.models import ModelSpec
from curation.store.calls import CallLedger
from tests.support.model_calls import MODEL, make_request, open_database, run
exporter = InMemorySpanExporter()
if sys.argv[3] == "exporting":
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
requests = [make_request("good"), make_request("bad")]
with stage_span("generate", ModelSpec(model=MODEL), calls=2):
    run(CallLedger(open_database(Path(sys.argv[1]))), sys.argv[2], requests)
print(json.dumps([[s.name, dict(s.attributes), s.status.status_code.name, s.parent.span_id if s.parent else None, s.context.span_id,
                   s.end_time - s.start_time] for s in exporter.get_finished_spans()]))
"""


def spans(path: Path, way: str) -> list[list[object]]:
    """What the process exports after two calls, one of which is refused."""
    with messages_server(lambda body, seen: Act(400) if prompt_of(body) == "bad" else always_answer(body, seen)) as server:
        command = [sys.executable, "-c", CHILD, str(path), server.address, way]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=Path(__file__).parents[3], check=False)
    assert done.returncode == 0, done.stderr
    found: list[list[object]] = json.loads(done.stdout)
    return found


def test_stages_and_calls_have_spans_where_an_exporter_is_set(tmp_path: Path) -> None:
    *calls, stage = spans(tmp_path / "w.db", "exporting")
    assert stage[0] == "seedcorn generate" and len(calls) == 2
    good, bad = sorted(calls, key=lambda span: str(span[2]), reverse=True)
    assert good[0] == "chat claude-sonnet-5-5" and all(call[3] == stage[4] and int(str(call[5])) > 0 for call in calls)
    attributes = good[1]
    assert isinstance(attributes, dict) and isinstance(bad[1], dict)
    assert (attributes["gen_ai.usage.input_tokens"], attributes["gen_ai.usage.output_tokens"]) == (100, 20)
    assert attributes["gen_ai.response.finish_reasons"] == ["end_turn"] and attributes["gen_ai.provider.name"] == "anthropic"
    assert (bad[2], bad[1]["error.type"]) == ("ERROR", "http_400")
    assert not any("answer to" in str(span) for span in calls)


def test_without_an_exporter_nothing_is_made(tmp_path: Path) -> None:
    assert spans(tmp_path / "w.db", "silent") == []
