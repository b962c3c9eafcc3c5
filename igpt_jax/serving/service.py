"""All parts of a server but HTTP."""

import logging
import math
import secrets
import threading
import time
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection

from igpt_jax.errors import UserError
from igpt_jax.serving.album import Album, Picture
from igpt_jax.serving.asks import Ask
from igpt_jax.serving.database import Database
from igpt_jax.serving.feed import Feed
from igpt_jax.serving.files import Files, input_file
from igpt_jax.serving.journal import Journal
from igpt_jax.serving.keyring import Keyring
from igpt_jax.serving.metrics import Metrics
from igpt_jax.serving.models import ServedModel
from igpt_jax.serving.provenance import plain_png
from igpt_jax.serving.settings import ServeSettings
from igpt_jax.serving.store import Job, Store, new_id
from igpt_jax.serving.worker import Worker, read_inputs

logger = logging.getLogger(__name__)


class Service:
    """What routes call.

    Attributes:
        settings: how it is set up.
        database: of all that follows.
        store: jobs.
        album: pictures.
        keyring: API keys.
        journal: audit log.
        files: of pictures.
        models: by name.
        feed: who watches what.
        metrics: for Prometheus.
        worker: what draws.
    """

    def __init__(
        self,
        database: Database,
        files: Files,
        models: Sequence[ServedModel],
        settings: ServeSettings,
    ) -> None:
        names = [model.name for model in models]
        if not names or len(set(names)) < len(names):
            raise UserError(f"expected models of different names, got {', '.join(names) or 'none'}")
        self.settings, self.database, self.files = settings, database, files
        self.store, self.album = Store(database), Album(database)
        self.keyring, self.journal = Keyring(database), Journal(database)
        self.models = {model.name: model for model in models}
        self.feed, self.metrics = Feed(), Metrics()
        self.worker = Worker(self.store, files, models, self.feed, self.metrics, settings)
        self.stops, self._warmth, self._started = threading.Event(), "warming", time.monotonic()
        engine = self.worker.engine
        watch = self.metrics.watch
        watch("igpt_waiting_pictures", "Pictures that wait.", self._waiting)
        watch("igpt_rows", "Rows of all segments.", lambda: engine.rows_advanced)
        watch("igpt_places", "The same with free ones.", lambda: engine.places_advanced)
        watch("igpt_watchers", "Connections that follow a job.", lambda: self.feed.num_watchers)

    def start(self) -> None:
        """Makes the models' programs and then draws, in the background."""
        if self.database.is_sqlite:  # it has one server: what runs is of one that ended
            self.store.release()
        threading.Thread(target=self._warm, name="warmer", daemon=True).start()

    def drain(self) -> None:
        """Takes nothing new: the server is about to stop."""
        self.stops.set()
        self.feed.close()

    def stop(self) -> None:
        """Finishes the batch in hand, gives back the rest, closes the database."""
        self.drain()
        self.worker.stop()
        self.database.close()

    @property
    def state(self) -> str:
        """`ready`, or why it is not."""
        if self.stops.is_set():
            return "stopping"
        if self._warmth != "ready":
            return self._warmth
        if not self.worker.is_alive:
            return "the engine ended"
        return "ready" if self.database.is_well() else "the database does not answer"

    def model(self, name: str | None) -> ServedModel:
        """A model by its name; the first where none is given.

        Raises:
            UserError: there is none of that name.
        """
        if name is None:
            return next(iter(self.models.values()))
        if name not in self.models:
            raise UserError(f"model: expected one of {', '.join(self.models)}, got {name!r}")
        return self.models[name]

    def accept(
        self,
        client: str,
        model: ServedModel,
        ask: Ask,
        count: int,
        seconds: float | None,
        repeat_key: str | None = None,
        id: str | None = None,
    ) -> tuple[Job, bool]:
        """Takes a request of `count` pictures for good, as a job of that id.

        Returns:
            The job, and whether it is new.

        Raises:
            UserError: the model, or a filter, refuses it.
            Full: too many wait.
        """
        settings = self.settings
        if count > settings.max_images:
            raise UserError(f"n: expected at most {settings.max_images} pictures, got {count}")
        for text in (ask.prompt, ask.negative_prompt, *(ask.attributes or {}).values()):
            refusal = settings.prompt_filter(text) if text else None
            if refusal is not None:
                self.journal.write(client, "refuse", model.name)
                raise UserError(refusal)
        model.painter.check(ask)
        id, inputs = id or new_id(), {}
        for kind, image in (("image", ask.image), ("mask", ask.mask)):
            if image is not None:
                pixels = image if kind == "image" else image[..., None].repeat(3, -1) * 255
                inputs[kind] = input_file(id, kind)
                self.files.put(inputs[kind], plain_png(pixels.astype("uint8")))
        wanted = min(settings.deadline if seconds is None else seconds, settings.max_deadline)
        total = count * model.info.num_tokens

        def note(connection: Connection) -> None:
            self.journal.add(connection, client, "generate", id, model=model.name, n=count)

        try:
            job, is_new = self.store.accept(
                client, model.name, ask.settings, count, total, wanted, id=id, inputs=inputs,
                repeat_key=repeat_key, max_waiting=settings.max_waiting, also=note,
            )  # fmt: skip
        except Exception:
            self._remove(inputs)
            raise
        if not is_new:
            self._remove(inputs)
            return job, False
        self.worker.wake()
        return job, True

    def again(
        self, client: str, picture: Picture, seed: int | None, id: str | None = None
    ) -> tuple[Job, bool]:
        """Draws what a picture was asked to be, of another seed; else as `accept`.

        Raises:
            UserError: what it was made from is gone.
            Full: too many wait.
        """
        job = self.store.job(picture.job)
        if job is None:
            raise UserError("picture: expected one whose request is known, got another")
        try:
            inputs = read_inputs(self.files, job)
        except FileNotFoundError:
            raise UserError("picture: expected what it was made from, found it gone") from None
        seed = random_seed() if seed is None else seed
        asked: dict[str, Any] = {**job.settings, **inputs, "seed": seed}
        ask = Ask(**asked)
        return self.accept(client, self.model(job.model), ask, 1, None, id=id)

    def cancel(self, client: str, job: Job) -> bool:
        """Ends a job that nobody wants; whether it had not ended."""
        if not self.store.cancel(job.id):
            return False
        self.worker.drop(job.id)
        self._remove(job.inputs)
        self.journal.write(client, "cancel", job.id)
        return True

    def remove(self, client: str, picture: Picture) -> bool:
        """Deletes a picture, and with the last of a job what it was made from."""
        if not self.album.remove(picture.id):
            return False
        self.journal.write(client, "delete", picture.id)
        self.files.remove(picture.file)
        job = self.store.job(picture.job)
        if job is not None and job.inputs and not self.album.of_job(job.id):
            self._remove(job.inputs)
        return True

    def retry_after(self, count: int) -> int:
        """Seconds until there may be room for some pictures, by how fast they were drawn so far."""
        elapsed = max(1.0, time.monotonic() - self._started)
        rate = max(0.1, self.worker.engine.rows_drawn / elapsed)
        return min(60, max(1, math.ceil(count / rate)))

    def _remove(self, inputs: Any) -> None:
        for name in inputs.values():
            self.files.remove(name)

    def _waiting(self) -> float:
        return float(self.store.counts()["pictures"])

    def _warm(self) -> None:
        try:
            for model in self.models.values():
                started = time.monotonic()
                model.painter.warm()
                logger.info("%s is warm after %.1f s", model.name, time.monotonic() - started)
        except Exception as error:  # `state` tells
            logger.exception("warming failed")
            self._warmth = f"warming failed ({type(error).__name__})"
            return
        if not self.stops.is_set():
            self.worker.start()
            self._started = time.monotonic()
            self._warmth = "ready"


def random_seed() -> int:
    """A seed that nobody asked for."""
    return secrets.randbelow(2**32)
