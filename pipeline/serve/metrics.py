"""What Prometheus is told. No label is anybody's: no path, no name, no address."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

from pipeline.detector.prediction import Prediction

if TYPE_CHECKING:
    from pipeline.serve.jobs import Jobs


class Metrics:
    """The service's counters, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.requests = Counter(
            "bmnas_requests", "Requests, by route and status", ["route", "method", "status"], registry=self.registry
        )
        self.jobs = Counter(
            "bmnas_jobs",
            "Files, by what came of them: answered, cannot_tell, unscored, failed (its worker was lost)",
            ["outcome"],
            registry=self.registry,
        )
        self.seconds = Histogram(
            "bmnas_job_seconds",
            "Seconds of work on a file",
            buckets=(0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000),
            registry=self.registry,
        )
        self.uploaded = Counter("bmnas_uploaded_bytes", "Bytes of files that came in", registry=self.registry)
        self.refused = Counter("bmnas_refused", "Requests refused since the queue was full", registry=self.registry)
        self.restarts = Counter("bmnas_worker_restarts", "Workers that were replaced", registry=self.registry)
        self._held = Gauge("bmnas_jobs_held", "Files on their way in, waiting and worked on", registry=self.registry)
        self._ready = Gauge("bmnas_workers_ready", "Workers that can take a file", registry=self.registry)

    def watch(self, jobs: Jobs) -> None:
        """From now on the gauges are about these."""
        self._held.set_function(lambda: jobs.held)
        self._ready.set_function(lambda: jobs.ready)

    def done(self, found: Prediction, state: str, seconds: float) -> None:
        """Counts a job that is over."""
        if state == "failed":
            outcome = "failed"
        elif found.score is None:
            outcome = "unscored"
        else:
            outcome = "answered" if found.answer.log10_lr is not None else "cannot_tell"
        self.jobs.labels(outcome).inc()
        self.seconds.observe(seconds)

    def text(self) -> bytes:
        """In Prometheus's text format."""
        return generate_latest(self.registry)
