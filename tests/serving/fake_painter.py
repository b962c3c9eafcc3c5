"""What draws without a model: pictures of one colour, of 16 tokens in four segments."""

import dataclasses
import threading

import numpy as np

from igpt_jax.errors import UserError
from igpt_jax.serving.models import ModelInfo, ServedModel

SIZE = 8
NAMES = ("fox", "night owl", "猫")


def colour(ask, index):
    label = 7 if ask.label is None else ask.label
    return np.array([label, ask.seed % 256, index], np.uint8)


@dataclasses.dataclass
class Hand:
    """Rows by place, (what is asked, index), and how many tokens each has."""

    rows: list
    positions: list


class FakePainter:
    """`gate` holds segments back until it is set; `batches` lists what entered together."""

    sizes = (1, 4)
    num_tokens = 16
    segment = 4

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

    def fits(self, hand, ask):
        """As with guidance: who asks for it needs a table whose rows may have it."""
        first = next(row for row in hand.rows if row is not None)
        return ask.cfg_scale is None or first[0].cfg_scale is not None

    def enter(self, hand, size, rows, places):
        hand = hand or Hand([None] * size, [0] * size)
        assert len(hand.rows) == size
        for row, place in zip(rows, places, strict=True):
            assert hand.rows[place] is None
            hand.rows[place], hand.positions[place] = row, 0
        self.batches.append([(ask.label, ask.seed, index) for ask, index in rows])
        self.began.release()
        return hand

    def resize(self, hand, kept, size):
        free = size - len(kept)
        rows = [hand.rows[place] for place in kept] + [None] * free
        return Hand(rows, [hand.positions[place] for place in kept] + [0] * free)

    def leave(self, hand, places):
        for place in places:
            hand.rows[place], hand.positions[place] = None, 0
        return hand

    def advance(self, hand):
        assert self.gate.wait(20)
        if self.fails is not None:
            raise self.fails
        self.segments += 1
        for place, row in enumerate(hand.rows):
            if row is not None:
                hand.positions[place] = min(hand.positions[place] + self.segment, self.num_tokens)
        return hand

    def preview(self, hand, places):
        return self._images(hand, places) // 2

    def finish(self, hand, places):
        assert all(hand.positions[place] == self.num_tokens for place in places)
        return self._images(hand, places)

    def _images(self, hand, places):
        images = np.zeros((len(places), SIZE, SIZE, 3), np.uint8)
        for image, (ask, index) in zip(images, (hand.rows[p] for p in places), strict=True):
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
