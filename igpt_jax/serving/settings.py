"""How a server is set up."""

import ipaddress
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from igpt_jax.errors import UserError
from igpt_jax.serving.screen import PromptFilter, default_prompt_filter

PictureFilter = Callable[[np.ndarray, dict[str, Any]], str | None]
"""Of a picture, uint8 [h w 3], and its settings: why it is not shown, or None."""


@dataclass(frozen=True)
class ServeSettings:
    """How a server is set up; sizes in bytes, times in seconds.

    Attributes:
        host: address to listen at.
        requires_keys: whether requests need an API key.
        hosts: names that requests may call the server by; () for any, which loopback never has.
        max_images: pictures of one request.
        max_waiting: pictures that may wait.
        deadline: of requests that name none.
        max_deadline: that they may name.
        lease: how long a server that is not heard of keeps its jobs.
        poll: how often a server looks for jobs that others accepted.
        grace: how long a stop waits for the batch in hand.
        max_upload: of an uploaded picture.
        max_pixels: of the same.
        max_events: people that may watch at once.
        is_marked: whether pictures are marked where one sees it.
        prompt_filter: why a text is not drawn, or None.
        picture_filter: the same of pictures; None for none.
    """

    host: str = "127.0.0.1"
    requires_keys: bool = False
    hosts: tuple[str, ...] = ()
    max_images: int = 16
    max_waiting: int = 256
    deadline: float = 120.0
    max_deadline: float = 600.0
    lease: float = 30.0
    poll: float = 0.25
    grace: float = 20.0
    max_upload: int = 8 * 2**20
    max_pixels: int = 16_000_000
    max_events: int = 256
    is_marked: bool = False
    prompt_filter: PromptFilter = default_prompt_filter
    picture_filter: PictureFilter | None = None

    def __post_init__(self) -> None:
        """Refuses what leaves the server open, or nothing to do."""
        if not (is_loopback(self.host) or self.requires_keys):
            raise UserError(
                f"--host: expected a loopback address without keys, got {self.host}; make a key "
                "(igpt serve-keys add NAME) and serve with --keys"
            )
        for name in ("max_images", "max_waiting", "max_upload", "max_pixels", "max_events"):
            if getattr(self, name) < 1:
                raise UserError(f"{name}: expected at least 1, got {getattr(self, name)}")
        for name in ("deadline", "max_deadline", "lease", "poll"):
            if not 0 < getattr(self, name) < 1e9:
                raise UserError(f"{name}: expected seconds above 0, got {getattr(self, name)}")

    @property
    def allowed_hosts(self) -> tuple[str, ...]:
        """Names that requests may call the server by; () for any.

        On loopback other names are refused: a page of another site could make its own name point
        here and then read what the server says (DNS rebinding).
        """
        if self.hosts or not is_loopback(self.host):
            return self.hosts
        return ("localhost", "127.0.0.1", "[::1]", self.host)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"
