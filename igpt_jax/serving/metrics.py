"""What Prometheus reads."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest


class Metrics:
    """The numbers of one server, in a registry of its own.

    Attributes:
        requests: by method, path and status.
        seconds: of requests, by path.
        jobs: that ended, by state.
        pictures: that were made.
        drawing: seconds from acceptance to the end of done jobs.
        errors: of the database or of files, after which a thread tries again.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        given = {"registry": self.registry}
        self.requests = Counter("igpt_requests", "Requests.", ("method", "path", "status"), **given)
        self.seconds = Histogram("igpt_request_seconds", "Seconds of requests.", ("path",), **given)
        self.jobs = Counter("igpt_jobs", "Jobs that ended.", ("state",), **given)
        self.pictures = Counter("igpt_pictures", "Pictures made.", **given)
        self.errors = Counter("igpt_store_errors", "Errors of database and files.", **given)
        self.drawing = Histogram(
            "igpt_job_seconds",
            "Seconds from acceptance to the end of jobs that are done.",
            buckets=(0.1, 0.25, 0.5, 1, 2, 4, 8, 15, 30, 60, 120, 300),
            **given,
        )

    def watch(self, name: str, text: str, function: Callable[[], float]) -> None:
        """A number that is looked up when it is read."""
        Gauge(name, text, registry=self.registry).set_function(function)

    def text(self) -> bytes:
        """All of them, as Prometheus reads them."""
        return generate_latest(self.registry)
