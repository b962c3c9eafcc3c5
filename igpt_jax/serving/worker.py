"""Brings jobs from the store to the engine, and pictures from the engine to the store."""

import hashlib
import logging
import os
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from sqlalchemy.exc import SQLAlchemyError

from igpt_jax.data.images import decode_image
from igpt_jax.serving.asks import Ask
from igpt_jax.serving.engine import Engine, Order, Overloaded
from igpt_jax.serving.feed import Feed
from igpt_jax.serving.files import Files, picture_file
from igpt_jax.serving.metrics import Metrics
from igpt_jax.serving.models import ServedModel
from igpt_jax.serving.provenance import png_file
from igpt_jax.serving.settings import ServeSettings
from igpt_jax.serving.store import Job, Store, new_id
from igpt_jax.serving.words import words_of
from igpt_jax.typing import UInt8

logger = logging.getLogger(__name__)


@dataclass
class _Held:
    """A job of this server, and how far it is."""

    job: Job
    tokens: int = 0


class Worker:
    """Feeds an engine; it is what the engine's listener is.

    Attributes:
        owner: this server's name in the store.
        engine: what draws.
    """

    def __init__(
        self,
        store: Store,
        files: Files,
        models: Sequence[ServedModel],
        feed: Feed,
        metrics: Metrics,
        settings: ServeSettings,
    ) -> None:
        self.owner = f"{socket.gethostname()[:60]}-{os.getpid()}-{new_id()[:8]}"
        self._store, self._files, self._feed = store, files, feed
        self._metrics, self._settings = metrics, settings
        self._models = {model.name: model for model in models}
        # Enough to fill the next batch while one is drawn; the rest stays for other servers.
        self._ahead = 2 * max(model.painter.sizes[-1] for model in models)
        painters = {model.name: model.painter for model in models}
        room = self._ahead + settings.max_images
        self.engine = Engine(painters, self, max_rows=room)
        self._held: dict[str, _Held] = {}
        self._lock, self._wake = threading.Lock(), threading.Event()
        self._stops = False
        self._thread = threading.Thread(target=self._run, name="worker", daemon=True)
        self._savers = ThreadPoolExecutor(2, thread_name_prefix="saver")

    def start(self) -> None:
        """Starts to draw."""
        self.engine.start()
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """Whether it draws."""
        return self._thread.is_alive() and self.engine.is_alive and not self._stops

    def wake(self) -> None:
        """There may be something to do."""
        self._wake.set()

    def drop(self, job: str) -> None:
        """A job was cancelled in the store: nobody waits for it."""
        self.engine.cancel(job)
        with self._lock:
            self._held.pop(job, None)
        self._feed.tell(job, has_ended=True)
        self._wake.set()

    def stop(self) -> None:
        """Finishes the batch in hand, if there is time, and gives back what is not done."""
        self._stops = True
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join()
        self.engine.stop(self._settings.grace)
        self._savers.shutdown(wait=True)
        try:
            self._store.release(self.owner)
        except SQLAlchemyError:  # then the leases end
            logger.exception("jobs could not be given back")

    # What the engine tells, in its thread.

    def wants_previews(self, job: str) -> bool:
        """Whether somebody watches it."""
        return self._feed.wants_previews(job)

    def took(self) -> None:
        """Looks for the next batch while this one is drawn."""
        self._wake.set()

    def drew(self, job: str, tokens: int, total: int, previews: Mapping[int, Any]) -> None:
        """Passes on how far a job is."""
        with self._lock:
            if job in self._held:
                self._held[job].tokens = tokens
        self._feed.tell(job, tokens=tokens, total=total, previews=previews)

    def done(self, job: str, images: UInt8[np.ndarray, "n h w 3"]) -> None:
        """Has its pictures written, in another thread."""
        self._savers.submit(self._settle, job, lambda job: self._save(job, images))

    def failed(self, job: str, reason: str, *, is_late: bool) -> None:
        """Has it noted, in another thread."""
        self._wake.set()  # a job that fails may leave room without a batch
        state = "late" if is_late else "failed"
        self._savers.submit(self._settle, job, lambda job: self._fail(job, state, reason))

    # The worker's own thread.

    def _run(self) -> None:
        due = 0.0
        while not self._stops:
            self._wake.wait(self._settings.poll)
            self._wake.clear()
            try:
                if time.monotonic() >= due:
                    due = time.monotonic() + min(1.0, self._settings.lease / 5)
                    self._keep()
                self._fetch()
            except (SQLAlchemyError, OSError):  # a database may go and come back
                self._metrics.errors.inc()
                logger.exception("the store failed; it is tried again")
                time.sleep(min(1.0, self._settings.lease / 5))

    def _keep(self) -> None:
        with self._lock:
            tokens = {id: held.tokens for id, held in self._held.items()}
        for lost in self._store.renew(self.owner, tokens, self._settings.lease):
            with self._lock:
                is_saving = lost in self._held and lost not in self.engine.jobs
            if not is_saving:  # else it ended between two looks
                self.drop(lost)
        self._metrics.jobs.labels("late").inc(self._store.expire())

    def _fetch(self) -> None:
        room = self._ahead - self.engine.waiting_rows
        if room <= 0 or self._stops:
            return
        names = list(self._models)
        for job in self._store.claim(self.owner, names, room, self._settings.lease):
            with self._lock:
                self._held[job.id] = _Held(job)
            self.engine.cancel(job.id)  # an attempt of ours whose lease had ended
            try:
                self.engine.submit(self._order(job))
            except Overloaded:
                with self._lock:
                    self._held.pop(job.id, None)
                self._store.release(self.owner, job.id)
            except Exception as error:  # what another version accepted, or whose files are gone
                logger.exception("a job could not be read")
                reason = f"its request could not be read ({type(error).__name__})"
                self._settle(job.id, lambda job, why=reason: self._fail(job, "failed", why))

    def _order(self, job: Job) -> Order:
        left = job.deadline - self._store.clock()
        return Order(
            job.id,
            job.client,
            job.model,
            Ask(**job.settings, **read_inputs(self._files, job)),
            job.count,
            time.monotonic() + left,
        )

    # The savers' threads.

    def _settle(self, id: str, end: Any) -> None:
        """Ends a job in the store; tries again while it does not answer and the job is ours."""
        with self._lock:
            held = self._held.get(id)
        if held is None:
            return
        try:
            self._try_to_end(held.job, end)
        finally:
            with self._lock:
                self._held.pop(id, None)
            self._feed.tell(id, has_ended=True)

    def _try_to_end(self, job: Job, end: Any) -> None:
        for wait in (0.1, 0.5, 2.0, 5.0, None):
            try:
                end(job)
                return
            except (SQLAlchemyError, OSError):
                self._metrics.errors.inc()
                logger.exception("a job could not be ended")
                if wait is None or self._stops:
                    return  # its lease ends, and it is drawn again
                time.sleep(wait)
            except Exception:
                logger.exception("a job could not be ended")
                self._fail(job, "failed", "its pictures could not be written")
                return

    def _fail(self, job: Job, state: str, reason: str) -> None:
        if self._store.fail(job.id, self.owner, job.attempt, state, reason):
            self._metrics.jobs.labels(state).inc()
            self._remove_inputs(job)

    def _save(self, job: Job, images: UInt8[np.ndarray, "n h w 3"]) -> None:
        """Files first, then the rows that name them, all at once with the end of the job."""
        refusal = self._refusal(job, images)
        if refusal is not None:
            self._fail(job, "failed", refusal)
            return
        model, rows = self._models[job.model], []
        for index, image in enumerate(images):
            settings = described(job, model, index)
            data = png_file(image, settings, is_marked=self._settings.is_marked)
            name = picture_file(job.id, index)
            self._files.put(name, data)
            rows.append(_row(job, settings, index, name, data, image.shape))
        if self._store.finish(job.id, self.owner, job.attempt, rows):
            self._metrics.jobs.labels("done").inc()
            self._metrics.pictures.inc(len(rows))
            self._metrics.drawing.observe(max(0.0, self._store.clock() - job.created))
            return
        now = self._store.job(job.id)
        if now is not None and now.has_ended and now.state != "done":
            for row in rows:  # of another attempt that is not done these are the files, too
                self._files.remove(row["file"])
            self._remove_inputs(job)

    def _refusal(self, job: Job, images: UInt8[np.ndarray, "n h w 3"]) -> str | None:
        judge = self._settings.picture_filter
        if judge is None:
            return None
        return next((why for image in images if (why := judge(image, dict(job.settings)))), None)

    def _remove_inputs(self, job: Job) -> None:
        for name in job.inputs.values():
            self._files.remove(name)


def read_inputs(files: Files, job: Job) -> dict[str, Any]:
    """The pictures that a job came with, by `image` and `mask`.

    Raises:
        FileNotFoundError: one is gone.
    """
    given: dict[str, Any] = {}
    for kind, name in job.inputs.items():
        data = files.get(name)
        if data is None:
            raise FileNotFoundError(name)
        image = decode_image(data)
        given[kind] = image if kind == "image" else image[..., 0] > 127
    return given


def described(job: Job, model: ServedModel, index: int) -> dict[str, Any]:
    """The settings of a picture, complete: with them it can be drawn again."""
    defaults = model.info.defaults
    settings: dict[str, Any] = {**defaults, **job.settings, "model": job.model, "index": index}
    label, names = job.settings.get("label"), model.info.class_names
    if label is not None and names:
        settings["class_name"] = names[label]
    if job.inputs:
        settings["completes"] = True
    return settings


def _row(
    job: Job,
    settings: dict[str, Any],
    index: int,
    name: str,
    data: bytes,
    shape: tuple[int, ...],
) -> dict[str, Any]:
    """A row of the table `pictures`; its id is the same whenever it is drawn."""
    prompt, class_name = settings.get("prompt"), settings.get("class_name")
    attributes = settings.get("attributes") or {}
    shown = [prompt or "", class_name or "", *map(str, attributes.values())]
    return {
        "id": hashlib.sha256(f"{job.id} {index}".encode()).hexdigest()[:32],
        "index": index,
        "client": job.client,
        "model": job.model,
        "prompt": prompt,
        "label": settings.get("label"),
        "class_name": class_name,
        "settings": settings,
        "seed": settings["seed"],
        "width": shape[1],
        "height": shape[0],
        "file": name,
        "bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        "words": " ".join(words_of(text) for text in shown if text),
    }
