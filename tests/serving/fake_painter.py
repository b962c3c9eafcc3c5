"""What draws without a model: pictures of one colour, of 16 tokens in four segments."""

import threading

import numpy as np

from igpt_jax.errors import UserError
from igpt_jax.serving.models import ModelInfo, ServedModel

SIZE = 8
NAMES = ("fox", "night owl", "猫")


def colour(ask, index):
    label = 7 if ask.label is None else ask.label
    return np.array([label, ask.seed % 256, index], np.uint8)


class FakePainter:
    """`gate` holds segments back until it is set; `batches` lists what was drawn together."""

    sizes = (1, 4)
    ends = (4, 8, 12, 16)

    def __init__(self):
        self.gate, self.began = threading.Event(), threading.Semaphore(0)
        self.gate.set()
        self.batches, self.segments, self.fails = [], 0, None

    def check(self, ask):
        if ask.label is not None and ask.label >= len(NAMES):
            raise UserError(f"labels: expected classes 0 to 2, got {ask.label}")

    def read(self, ask):
        if ask.label == 2 and ask.seed == 666:
            raise UserError("text: expected another, got this")
        return ask

    def begin(self, rows):
        self.batches.append([(ask.label, ask.seed, index) for ask, index in rows])
        self.began.release()
        return list(rows)

    def advance(self, batch, end):
        assert self.gate.wait(20)
        if self.fails is not None:
            raise self.fails
        self.segments += 1
        return batch

    def preview(self, batch):
        return self.finish(batch) // 2

    def finish(self, batch):
        images = np.zeros((len(batch), SIZE, SIZE, 3), np.uint8)
        for image, (ask, index) in zip(images, batch, strict=True):
            image[:] = colour(ask, index)
            if ask.image is not None and ask.mask is not None:
                image[~ask.mask] = ask.image[~ask.mask]
        return images

    def classify(self, image):
        yield
        return -np.abs(np.arange(3) - float(image[0, 0, 0])).astype(np.float32)

    def warm(self):
        return 0


def fake_model(name="cards", painter=None, **info):
    known = {"takes_text": True, "num_classes": 3, "class_names": NAMES, "is_guidable": True}
    defaults = {"temperature": 1.0, "cfg_scale": 1.0, "top_k": 0, "top_p": 1.0}
    told = ModelInfo(SIZE, 16, defaults=defaults, **{**known, **info})
    return ServedModel(name, painter or FakePainter(), told)
