"""What requests and answers look like."""

import unicodedata
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from igpt_jax.serving.album import Picture
from igpt_jax.serving.asks import Ask
from igpt_jax.serving.service import random_seed
from igpt_jax.serving.store import Job

MAX_TEXT = 2_000


def plain_text(text: str) -> str:
    """A text that every database and terminal takes; line ends become spaces."""
    text = " ".join(text.split())
    if any(unicodedata.category(letter) in ("Cc", "Cs", "Cn") for letter in text):
        raise ValueError("expected text without control characters")
    return text


Text = Annotated[str, Field(max_length=MAX_TEXT), AfterValidator(plain_text)]
Name = Annotated[str, Field(max_length=200), AfterValidator(plain_text)]
Label = Annotated[int, Field(ge=0, lt=2**31)]
Id = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
Seed = Annotated[int, Field(ge=0, lt=2**32)]


class Asked(BaseModel):
    """What is asked of pictures; what is left out is the model's default."""

    model_config = ConfigDict(extra="forbid")

    model: Name | None = Field(None, description="name of a model; the server's first by default")
    prompt: Text | None = Field(None, description="what the pictures show, of models of texts")
    negative_prompt: Text | None = Field(None, description="what guidance leads away from")
    label: Label | None = Field(None, description="class, of models of classes")
    class_name: Name | None = Field(None, description="the same by its name")
    negative_label: Label | None = Field(None, description="class that guidance leads away from")
    n: int = Field(1, ge=1, le=1_000, description="pictures")
    seed: Seed | None = Field(None, description="of everything random; drawn if it is left out")
    temperature: float | None = Field(None, ge=0, le=100, description="0 = most probable token")
    cfg_scale: float | None = Field(None, ge=-100, le=100, description="guidance, 1 = off")
    top_k: int | None = Field(None, ge=0, le=1_000_000, description="tokens to draw from, 0 = all")
    top_p: float | None = Field(None, gt=0, le=1, description="mass to draw from, 1 = all")
    deadline: float | None = Field(None, gt=0, le=1e6, description="seconds until it is too late")

    def ask(self, class_names: tuple[str, ...], **more: Any) -> Ask:
        """The same for a model with these classes.

        Raises:
            ValueError: no such class.
        """
        label = self.label
        if self.class_name is not None:
            if label is not None:
                raise ValueError("expected label or class_name, got both")
            if self.class_name not in class_names:
                raise ValueError(f"class_name: expected one of the model's, got {self.class_name}")
            label = class_names.index(self.class_name)
        same = ("prompt", "negative_prompt", "negative_label", "temperature", "cfg_scale", "top_k")
        given = {name: getattr(self, name) for name in (*same, "top_p")}
        seed = random_seed() if self.seed is None else self.seed
        return Ask(label=label, seed=seed, **given, **more)


class Generate(Asked):
    """Pictures to draw."""

    attributes: dict[Name, Name] | None = Field(
        None, max_length=64, description="values by the names of attributes"
    )


class PictureView(BaseModel):
    """A picture that was made."""

    id: str
    job: str
    index: int
    model: str
    prompt: str | None
    label: int | None
    class_name: str | None
    seed: int
    width: int
    height: int
    bytes: int
    sha256: str
    created: float = Field(description="seconds since 1970")
    settings: dict[str, Any] = Field(description="all that was asked")
    url: str = Field(description="of the file")


class JobView(BaseModel):
    """A job, and its pictures when it is done."""

    id: str
    state: Literal["queued", "running", "done", "failed", "late", "cancelled"]
    reason: str | None
    model: str
    n: int
    seed: int
    tokens: int = Field(description="drawn")
    total: int = Field(description="tokens of all its pictures")
    created: float = Field(description="seconds since 1970")
    deadline: float
    finished: float | None
    pictures: list[PictureView]


class Page(BaseModel):
    """Some of the pictures that were found, the newest first."""

    pictures: list[PictureView]
    next: int | None = Field(description="`before` of the next page; null on the last")


class ModelView(BaseModel):
    """A model, and what can be asked of it."""

    name: str
    image_size: int
    num_tokens: int
    takes_text: bool
    num_classes: int
    class_names: list[str]
    attributes: dict[str, list[str]]
    is_guidable: bool
    completes: bool
    defaults: dict[str, float]


class Models(BaseModel):
    """All models, and what the server allows."""

    models: list[ModelView]
    max_images: int
    max_upload: int
    max_pixels: int
    deadline: float


class ClassView(BaseModel):
    """A class that a picture may be of."""

    label: int
    class_name: str | None
    log_likelihood: float = Field(description="nats of the picture's tokens, given the class")
    probability: float = Field(description="of the class, where all are as likely beforehand")


class Classes(BaseModel):
    """The most probable classes of a picture."""

    model: str
    classes: list[ClassView]


class Problem(BaseModel):
    """What is wrong: expected, got, what to do."""

    detail: Any


def picture_view(picture: Picture) -> PictureView:
    """A picture, without what is the server's own."""
    names = PictureView.model_fields.keys() - {"url"}
    values = {name: getattr(picture, name) for name in names}
    return PictureView(**values, url=f"/v1/pictures/{picture.id}/file")


def job_view(job: Job, pictures: list[Picture]) -> JobView:
    """A job with its pictures."""
    names = JobView.model_fields.keys() - {"pictures", "n", "seed"}
    values = {name: getattr(job, name) for name in names}
    views = [picture_view(picture) for picture in pictures]
    return JobView(**values, n=job.count, seed=job.settings["seed"], pictures=views)
