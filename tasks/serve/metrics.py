"""What a server tells Prometheus: requests, times to the first sound, seconds of audio, places in use."""

from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.types import Scope

from .limits import Places

_SECONDS = (0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 2.0, 5.0, 10.0, 30.0)


class Metrics:
    """The metrics of one server.

    Args:
        places: Places of requests, by what they do.
    """

    def __init__(self, places: dict[str, Places]) -> None:
        self._places = places
        # Not the registry of the process, so that one process can hold several servers.
        self._registry = CollectorRegistry()
        options: dict[str, Any] = {"registry": self._registry, "namespace": "focallm"}
        self._requests = Counter("requests", "Responses by path and status.", ["path", "status"], **options)
        self._running = Gauge("running", "Requests that have a place.", ["kind"], **options)
        self._waiting = Gauge("waiting", "Requests that wait for a place.", ["kind"], **options)
        self.time_to_first_audio = Histogram(
            "time_to_first_audio_seconds",
            "From a request to its first sound, with the time in the queue.",
            buckets=_SECONDS,
            **options,
        )
        self.audio_seconds = Counter("audio_seconds", "Seconds of speech sent.", **options)

    def count(self, scope: Scope, status: int) -> None:
        """Count a response."""
        # The path that a client sent could be anything, and each would be a series of its own.
        path = getattr(scope.get("route"), "path", "other")
        self._requests.labels(path, str(status)).inc()

    def render(self) -> bytes:
        """Return the metrics in the text format of Prometheus."""
        for kind, places in self._places.items():
            self._running.labels(kind).set(places.running)
            self._waiting.labels(kind).set(places.waiting)
        return generate_latest(self._registry)
