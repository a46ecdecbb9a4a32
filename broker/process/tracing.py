"""Records spans with the OpenTelemetry SDK, and sends them by OTLP over HTTP.

Rules: the only module that knows the library, and imported only with `trace_url`. The SDK's own environment variables
(`OTEL_SERVICE_NAME`, `OTEL_RESOURCE_ATTRIBUTES`, `OTEL_EXPORTER_OTLP_HEADERS`, `OTEL_BSP_…`) apply. A thread of the SDK sends; if the
collector is away, spans are dropped.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    TraceState,
    set_span_in_context,
)
from opentelemetry.trace import Span as SdkSpan

from broker.traces import TraceContext
from broker.version import installed_version

_KINDS = {"server": SpanKind.SERVER, "client": SpanKind.CLIENT, "producer": SpanKind.PRODUCER}


class SdkTracer:
    """Implements `traces.Tracer`.

    Args:
        processor: gets the ended spans.
        share: of the publishes without a `traceparent`, the share that is recorded, from 0 to 1. Of the others, those with the
            sampled flag are recorded.
    """

    def __init__(self, processor: SpanProcessor, share: float) -> None:
        resource = Resource.create(
            {
                "service.name": os.environ.get("OTEL_SERVICE_NAME", "sse-broker"),
                "service.version": installed_version() or "unknown",
                "process.pid": os.getpid(),
            }
        )
        self._share = share
        self._provider = TracerProvider(
            sampler=ParentBased(TraceIdRatioBased(share)), resource=resource, shutdown_on_exit=False
        )
        self._provider.add_span_processor(processor)
        self._tracer = self._provider.get_tracer("broker")

    def start(
        self, name: str, kind: str, parent: TraceContext | None, attributes: Mapping[str, str | int]
    ) -> RecordedSpan | None:
        if not self._share if parent is None else not parent.is_sampled:
            return None
        context = None
        if parent is not None:
            remote = SpanContext(
                int(parent.trace_id, 16),
                int(parent.span_id, 16),
                is_remote=True,
                trace_flags=TraceFlags(parent.flags),
                trace_state=TraceState.from_header([parent.state]),
            )
            context = set_span_in_context(NonRecordingSpan(remote))
        span = self._tracer.start_span(name, context, _KINDS[kind], dict(attributes))
        if not span.is_recording():
            return None
        return RecordedSpan(span, is_foreign=parent is not None and parent.is_foreign)

    def stop(self) -> None:
        """Send the recorded spans. Blocks for some seconds at most."""
        self._provider.shutdown()


class RecordedSpan:
    """Implements `traces.Span`."""

    __slots__ = ("_is_foreign", "_span")

    def __init__(self, span: SdkSpan, *, is_foreign: bool) -> None:
        self._span = span
        self._is_foreign = is_foreign

    @property
    def context(self) -> TraceContext:
        context = self._span.get_span_context()
        return TraceContext(
            f"{context.trace_id:032x}",
            f"{context.span_id:016x}",
            int(context.trace_flags),
            context.trace_state.to_header(),
            is_foreign=self._is_foreign,
        )

    def end(self, error: str = "") -> None:
        if not self._span.is_recording():
            return
        if error:
            self._span.set_attribute("error.type", error)
            self._span.set_status(Status(StatusCode.ERROR))
        self._span.end()


def exporting_tracer(url: str, share: float) -> SdkTracer:
    """A tracer that sends to an OTLP/HTTP endpoint, such as `http://collector:4318/v1/traces`."""
    return SdkTracer(BatchSpanProcessor(OTLPSpanExporter(endpoint=url)), share)
