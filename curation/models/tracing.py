"""OpenTelemetry spans of stages and calls. They go where the process was told to send spans (`opentelemetry-instrument curate …`, or
a tracer provider that was set); without one nothing is made and nothing leaves. Prompts and answers are never in them.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from curation.config.project import ModelSpec

_NAMES = {"input_tokens": "gen_ai.usage.input_tokens", "output_tokens": "gen_ai.usage.output_tokens"}


@contextmanager
def stage_span(stage: str, spec: ModelSpec, *, calls: int) -> Iterator[None]:
    """Around all calls of a stage to one model."""
    tracer = _tracer()
    if tracer is None:
        yield
        return
    asked = {"seedcorn.stage": stage, "seedcorn.calls": calls, "gen_ai.request.model": spec.model}
    with tracer.start_as_current_span(f"seedcorn {stage}", attributes=asked):
        yield


def record_call(
    spec: ModelSpec,
    *,
    stage: str,
    started: float,
    tokens: Mapping[str, int] | None = None,
    stop: str | None = None,
    error: str | None = None,
) -> None:
    """One try of a call, told when it is over; `started` is wall time."""
    tracer = _tracer()
    if tracer is None:
        return
    from opentelemetry.trace import SpanKind, Status, StatusCode

    known: dict[str, Any] = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": spec.provider,
        "gen_ai.request.model": spec.model,
        "gen_ai.request.max_tokens": spec.max_tokens,
        "seedcorn.stage": stage,
    }
    known |= {name: tokens[ours] for ours, name in _NAMES.items() if tokens and ours in tokens}
    known |= {"gen_ai.response.finish_reasons": [stop]} if stop else {}
    known |= {"error.type": error} if error else {}
    span = tracer.start_span(f"chat {spec.model}", kind=SpanKind.CLIENT, attributes=known, start_time=int(started * 1e9))
    if error:
        span.set_status(Status(StatusCode.ERROR, error))
    span.end(time.time_ns())


def _tracer() -> Any:
    """The tracer of the provider that was set; None where there is none."""
    from opentelemetry import trace

    provider = trace.get_tracer_provider()
    is_set = not isinstance(provider, trace.ProxyTracerProvider | trace.NoOpTracerProvider)
    return provider.get_tracer("seedcorn") if is_set else None
