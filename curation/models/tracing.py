"""OpenTelemetry spans of stages and calls, with the gen_ai attributes of its semantic conventions.

Spans go where the process was configured to send them (`opentelemetry-instrument curate …`, or a tracer provider that was set). Without a
provider nothing is created. Prompts and answers are never included.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from curation.config.models import ModelSpec

_TOKEN_ATTRIBUTES = {"input_tokens": "gen_ai.usage.input_tokens", "output_tokens": "gen_ai.usage.output_tokens"}


@contextmanager
def stage_span(stage: str, spec: ModelSpec, *, calls: int) -> Iterator[None]:
    """Open a span for all calls of a stage to one model.

    Args:
        stage: name of the stage.
        spec: the model.
        calls: how many requests the stage has.
    """
    tracer = _find_tracer()
    if tracer is None:
        yield
        return
    attributes = {"seedcorn.stage": stage, "seedcorn.calls": calls, "gen_ai.request.model": spec.model}
    with tracer.start_as_current_span(f"seedcorn {stage}", attributes=attributes):
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
    """Record the span of one try that has ended.

    Args:
        spec: the model.
        stage: name of the stage.
        started: wall time in seconds.
        tokens: usage, where it is known.
        stop: stop reason of the response.
        error: reason of a failure.
    """
    tracer = _find_tracer()
    if tracer is None:
        return
    from opentelemetry.trace import SpanKind, Status, StatusCode

    attributes: dict[str, Any] = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": spec.provider,
        "gen_ai.request.model": spec.model,
        "gen_ai.request.max_tokens": spec.max_tokens,
        "seedcorn.stage": stage,
    }
    attributes |= {name: tokens[ours] for ours, name in _TOKEN_ATTRIBUTES.items() if tokens and ours in tokens}
    attributes |= {"gen_ai.response.finish_reasons": [stop]} if stop else {}
    attributes |= {"error.type": error} if error else {}
    # Made when the try has ended, with its start in the past: usage and stop reason are known only now. Times are in nanoseconds.
    span = tracer.start_span(f"chat {spec.model}", kind=SpanKind.CLIENT, attributes=attributes, start_time=int(started * 1e9))
    if error:
        span.set_status(Status(StatusCode.ERROR, error))
    span.end(time.time_ns())


def _find_tracer() -> Any:
    """Return the tracer of the configured provider; None where there is none."""
    from opentelemetry import trace

    provider = trace.get_tracer_provider()
    is_set = not isinstance(provider, trace.ProxyTracerProvider | trace.NoOpTracerProvider)
    return provider.get_tracer("seedcorn") if is_set else None
