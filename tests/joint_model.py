"""A tiny GPT that can be asked everything at once, and the same in NumPy float64, slot by slot.

The reference knows no padding: it lines up what is there and nothing else.
"""

import functools
from dataclasses import dataclass, replace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from igpt_jax.models.conditioning import Caption, CondImage, Conditions, TextFeatures
from igpt_jax.models.gpt import GPT, GPTConfig
from igpt_jax.parameters import generator_inputs

CONFIG = GPTConfig(
    vocab_size=7,
    grid_shape=(2, 3),
    num_frames=2,
    num_layers=2,
    num_heads=2,
    embed_dim=16,
    mlp_dim=24,
    order="any",
    num_classes=3,
    attribute_sizes=(3, 2),
    text_len=3,
    text_dim=4,
    caption_len=4,
    caption_vocab_size=6,
    cond_image=True,
)


@dataclass(frozen=True)
class Row:
    """One picture and what is asked, without padding; None where the null condition is asked."""

    tokens: list[int]
    order: list[int]
    caption: list[int]
    is_last: bool
    label: int
    attributes: list[int]
    text: np.ndarray
    is_null_text: bool
    image: list[int] | None


@functools.cache
def random_params(config):
    shapes = jax.eval_shape(GPT(config).init, jax.random.key(0), *generator_inputs(GPT(config)))[
        "params"
    ]
    leaves, tree = jax.tree.flatten(nn.unbox(shapes))
    rng = np.random.default_rng(1)
    drawn = [jnp.asarray(0.4 * rng.standard_normal(x.shape), jnp.float32) for x in leaves]
    return jax.tree.unflatten(tree, drawn)


def random_rows(config, seed=0):
    """Captions of every length before and behind the picture, and each condition left out once."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(2 * (config.caption_len + 1)):
        length, is_last = divmod(i, 2)
        rows.append(
            Row(
                tokens=rng.integers(0, config.vocab_size, config.seq_len).tolist(),
                order=rng.permutation(config.seq_len).tolist(),
                caption=rng.integers(0, config.caption_vocab_size - 1, length).tolist(),
                is_last=bool(is_last),
                label=config.num_classes if i == 2 else int(rng.integers(config.num_classes)),
                attributes=[
                    -1 if i in (3, 4 + place) else int(rng.integers(size))
                    for place, size in enumerate(config.attribute_sizes)
                ],
                text=rng.standard_normal((1 + i % config.text_len, config.text_dim))
                if config.text_len
                else np.zeros((0, 0)),
                is_null_text=i == 6,
                image=None if i in (7, 8) else rng.integers(0, 7, config.cond_len).tolist(),
            )
        )
    return rows


def null_row(row, config):
    """The same picture, of which nothing is asked but that it be made from its picture."""
    return replace(
        row, caption=[], label=config.num_classes, attributes=[-1, -1], is_null_text=True
    )


def captions_of(config, rows, pad=None):
    """Captions padded on the right: with the last id, or any id where `pad` is a generator."""
    size = config.caption_vocab_size
    shape = len(rows), config.caption_len
    tokens = np.full(shape, size - 1) if pad is None else pad.integers(0, size, shape)
    for given, row in zip(tokens, rows, strict=True):
        given[: len(row.caption)] = row.caption
    lengths = [len(row.caption) for row in rows]
    return Caption(jnp.asarray(tokens, jnp.int32), jnp.asarray(lengths, jnp.int32))


def conditions_of(config, rows, pad=None):
    """Everything that is asked but the captions."""
    text = image = None
    if config.text_len:
        features = np.zeros((len(rows), config.text_len, config.text_dim), np.float32)
        mask = np.zeros(features.shape[:2], bool)
        for i, row in enumerate(rows):
            features[i, -len(row.text) :], mask[i, -len(row.text) :] = row.text, True
        is_null = np.array([row.is_null_text for row in rows])
        text = TextFeatures(*map(jnp.asarray, (features, mask, is_null)))
    if config.cond_image:
        rng = np.random.default_rng(0) if pad is None else pad
        unseen = rng.integers(0, config.vocab_size, (len(rows), config.cond_len)).tolist()
        tokens = [row.image or hidden for row, hidden in zip(rows, unseen, strict=True)]
        is_null = np.array([row.image is None for row in rows])
        image = CondImage(jnp.asarray(tokens, jnp.int32), jnp.asarray(is_null))
    return Conditions(
        labels=jnp.asarray([row.label for row in rows], jnp.int32) if config.num_classes else None,
        attributes=jnp.asarray([row.attributes for row in rows], jnp.int32)
        if config.attribute_sizes
        else None,
        text=text,
        image=image,
    )


def pictures_of(rows):
    """Tokens in raster order, and the order of the cells."""
    tokens, order = ([getattr(row, name) for row in rows] for name in ("tokens", "order"))
    return jnp.asarray(tokens, jnp.int32), jnp.asarray(order, jnp.int32)


def sequence_of(config, row):
    """The cells of a row and their tokens, no padding."""
    words = [(config.seq_len + i, config.vocab_size + w) for i, w in enumerate(row.caption)]
    picture = [(cell, row.tokens[cell]) for cell in row.order]
    return picture + words if row.is_last else words + picture


def reference(config, params, row):
    """float64 log-probabilities [cells v] of each cell of `sequence_of`, of the ids of its kind."""
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), dict(params))
    slots = _lead(config, p, row)
    sequence = sequence_of(config, row)
    predictors = []
    for cell, token in sequence:
        slots[-1][0] = slots[-1][0] + p["target_embedding"][cell]
        predictors.append(len(slots) - 1)
        slots.append([p["token_embedding"][token], _coordinates(config, cell), True])
    x = np.stack([vector for vector, _, _ in slots])
    places, seen = [place for _, place, _ in slots], [is_seen for _, _, is_seen in slots]
    for layer in range(config.num_layers):
        block = jax.tree.map(lambda leaf, layer=layer: leaf[layer], p["blocks"])
        x = x + _attention(config, block, _norm(x, block["attention_norm"]), places, seen)
        h, mlp = _norm(x, block["mlp_norm"]), block["mlp"]
        gate = h @ mlp["gate"]["kernel"]
        x = x + (gate / (1 + np.exp(-gate)) * (h @ mlp["up"]["kernel"])) @ mlp["down"]["kernel"]
    logits = (_norm(x, p["norm"]) @ p["head"])[predictors]
    for given, (cell, _) in zip(logits, sequence, strict=True):
        others = slice(0, config.vocab_size)
        given[others if cell >= config.seq_len else slice(config.vocab_size, None)] = -np.inf
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


def _lead(config, p, row):
    """Slots [vector, coordinates, is it seen by later ones] before all cells."""
    prefix, slots = p["prefix"], []
    parts = [prefix["labels"]["embedding_0"][row.label]]
    for place, value in enumerate(row.attributes):
        table = prefix["attributes"][f"embedding_{place}"]
        parts.append(table[len(table) - 1 if value == -1 else value])
    if config.text_len:
        features = row.text
        if row.is_null_text:
            features = prefix["text"]["null_features"][-len(row.text) :]
        hidden = features @ prefix["text"]["up"]["kernel"]
        gelu = hidden / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (hidden + 0.044715 * hidden**3)))
        parts += list(gelu @ prefix["text"]["out"]["kernel"])
    slots += [[vector, None, True] for vector in parts]
    rows, columns = config.grid_shape
    last = config.caption_len - 1, rows - 1, columns - 1
    if row.image is None:  # an empty slot still predicts the first cell
        return [*slots, [np.zeros(config.embed_dim), last, False]]
    for cell, token in enumerate(row.image):
        place = config.caption_len - 1, cell // columns, cell % columns
        slots.append([p["token_embedding"][len(p["head"].T) + token], place, True])
    return slots


def _coordinates(config, cell):
    rows, columns = config.grid_shape
    if cell >= config.seq_len:
        return (cell - config.seq_len,) * 3
    frame, inside = divmod(cell, rows * columns)
    return config.caption_len + frame, inside // columns, inside % columns


def _norm(x, p):
    return x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + 1e-5) * p["scale"]


def turn(vector, place, base=10_000.0):
    """Complex numbers turned by angles; a quarter of them by time, the rest by row and column."""
    pairs = len(vector) // 2
    time = pairs // 4
    rows = (pairs - time) // 2
    numbers = vector[0::2] + 1j * vector[1::2]
    start = 0
    for coordinate, count in zip(place, (time, rows, pairs - time - rows), strict=True):
        for i in range(count):
            numbers[start + i] *= np.exp(1j * coordinate * base ** (-i / count))
        start += count
    return np.stack([numbers.real, numbers.imag], axis=-1).reshape(-1)


def _attention(config, block, x, places, seen):
    p = block["attention"]
    query, key, value = (
        np.einsum("sd,dnk->nsk", x, p[n]["kernel"]) for n in ("query", "key", "value")
    )
    out = np.zeros_like(x)
    for head in range(config.num_heads):
        q, k = (
            [
                v if place is None else turn(v, place)
                for v, place in zip(a[head], places, strict=True)
            ]
            for a in (query, key)
        )
        for i in range(len(x)):
            js = [j for j in range(i + 1) if seen[j] or j == i]
            scores = np.array([q[i] @ k[j] for j in js]) / np.sqrt(config.head_dim)
            weights = np.exp(scores - scores.max())
            mixed = weights / weights.sum() @ value[head][js]
            out[i] += mixed @ p["out"]["kernel"][head]
    return out
