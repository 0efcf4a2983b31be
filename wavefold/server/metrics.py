"""What the server counts, in Prometheus' text format."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from wavefold.server.line import Line, time_per_token
from wavefold.server.news import Ended

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800)
PER_TOKEN = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)

Values = Callable[[], dict[str, tuple[float, str]]]
"""Returns values that are read when somebody asks: by name, with their help. A name in `_total` is a count."""


class Metrics:
    """Counts of one server. `values`: what others count. One thread calls it."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self, values: Values = dict):
        self._registry = registry = CollectorRegistry()
        self._requests = Counter(
            "wavefold_requests", "Requests that were answered, by path and status.", ("path", "status"),
            registry=registry,
        )  # fmt: skip
        self._answers = Counter(
            "wavefold_answers", "Answers that have ended, by the reason.", ("reason",), registry=registry
        )
        self._prompt = Counter(
            "wavefold_prompt_tokens", "Tokens of prompts: hit in memory, hit on the disk, or computed.", ("found",),
            registry=registry,
        )  # fmt: skip
        self._tokens = Counter("wavefold_generated_tokens", "Tokens of answers.", registry=registry)
        self._queue = Histogram(
            "wavefold_queue_seconds", "From a request's arrival until it runs.", buckets=SECONDS, registry=registry
        )
        self._first = Histogram(
            "wavefold_time_to_first_token_seconds", "From a request's arrival until its first token.",
            buckets=SECONDS, registry=registry,
        )  # fmt: skip
        self._per_token = Histogram(
            "wavefold_time_per_output_token_seconds", "Of each token after the first, a mean for an answer.",
            buckets=PER_TOKEN, registry=registry,
        )  # fmt: skip
        registry.register(_Read(values))

    def count_request(self, line: Line, path: str) -> None:
        """Counts an answer. `path` is one of the server's own, else anybody could make as many as he likes."""
        self._requests.labels(path, str(line.status)).inc()

    def count_end(self, ended: Ended) -> None:
        """Counts the end of a request of the engine."""
        self._answers.labels(ended.reason).inc()
        usage = ended.usage
        if ended.queue_s is not None:
            self._queue.observe(ended.queue_s)
            for found, count in (
                ("memory", usage.cached_tokens), ("disk", usage.disk_tokens), ("computed", usage.computed_tokens)
            ):  # fmt: skip
                self._prompt.labels(found).inc(max(0, count))
        if ended.first_s is not None:
            self._first.observe(ended.first_s)
        if (per_token := time_per_token(ended)) is not None:
            self._per_token.observe(per_token)
        self._tokens.inc(usage.completion_tokens)

    def text(self) -> bytes:
        """Returns all values."""
        return generate_latest(self._registry)


class _Read:
    """A collector of values that others count."""

    def __init__(self, values: Values):
        self._values = values

    def describe(self) -> list[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        for name, (value, documentation) in self._values().items():
            is_count = name.endswith("_total")
            family = (CounterMetricFamily if is_count else GaugeMetricFamily)(
                name.removesuffix("_total"), documentation
            )
            family.add_metric((), value)
            yield family
