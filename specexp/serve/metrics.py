"""What Prometheus reads at /metrics: counts of requests, tokens and speculation, and ratios of these counts, computed when read."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from specexp.figures.acceptance import acceptance_figures, quotient
from specexp.live.engine import CANCELLED
from specexp.serve.worker import Job

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
COUNTS = {
    "prompt_tokens": "tokens of prompts read",
    "generation_tokens": "tokens generated",
    "spec_steps": "rounds with a draft",
    "draft_tokens": "tokens drafted",
    "accepted_tokens": "drafted tokens accepted",
    "busy_seconds": "time in which the decoder worked",
}


class Metrics:
    """All names begin with specexp_. The registry is this server's own, not the process-wide one."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter("requests", "requests by how they ended", ["outcome"], namespace="specexp", registry=self.registry)
        self._counts = {key: Counter(key, words, namespace="specexp", registry=self.registry) for key, words in COUNTS.items()}
        self._sums = dict.fromkeys(COUNTS, 0.0)
        self._ttft = self._histogram("time_to_first_token_seconds", "from a request's arrival")
        self._waited = self._histogram("queue_seconds", "from a request's arrival to its turn")
        ratio = self._ratio
        self.gauge("draft_acceptance_rate", "accepted tokens divided by drafted ones", lambda: ratio("accepted_tokens", "draft_tokens"))
        self.gauge("mean_acceptance_length", "tokens per round with a draft", lambda: 1 + ratio("accepted_tokens", "spec_steps"))
        self.gauge("tokens_per_second", "generated tokens divided by busy seconds", lambda: ratio("generation_tokens", "busy_seconds"))

    def gauge(self, name: str, words: str, value: Callable[[], float]) -> None:
        Gauge(name, words, namespace="specexp", registry=self.registry).set_function(value)

    def finished(self, job: Job) -> None:
        """Count a job that the decoder ran."""
        if job.answer is None:
            self.requests.labels("failed").inc()
            return
        side = job.answer.side()
        found = acceptance_figures([side])
        self.requests.labels("cancelled" if job.answer.finish == CANCELLED else "completed").inc()
        self._add("prompt_tokens", len(job.request.prompt))
        self._add("generation_tokens", len(side["token_ids"]))
        self._add("spec_steps", found["num_spec_steps"])
        self._add("draft_tokens", found["num_draft_tokens"])
        self._add("accepted_tokens", found["num_accepted_draft_tokens"])
        self._add("busy_seconds", side["ttft_seconds"] + side["decode_seconds"])
        self._ttft.observe(job.waited_seconds + side["ttft_seconds"])
        self._waited.observe(job.waited_seconds)

    def exposition(self) -> bytes:
        """In Prometheus' text format."""
        return generate_latest(self.registry)

    def _add(self, key: str, amount: float) -> None:
        self._counts[key].inc(amount)
        self._sums[key] += amount

    def _ratio(self, numerator: str, denominator: str) -> float:
        """0 before there is anything to divide by."""
        return quotient(self._sums[numerator], self._sums[denominator]) or 0.0

    def _histogram(self, name: str, words: str) -> Histogram:
        return Histogram(name, words, namespace="specexp", buckets=SECONDS, registry=self.registry)
