"""The names of ImageNet's classes, for models that are conditioned on them."""

# The classes are those of ILSVRC 2012 (Russakovsky et al. 2015, "ImageNet Large Scale Visual
# Recognition Challenge"), in the order of their WordNet 3.0 identifiers, as every published model
# numbers them. A name is the first lemma of its synset in WordNet (Princeton University); the
# cranes, maillots and cardigans, which share theirs, are told apart.

from functools import cache
from importlib import resources


@cache
def class_names() -> tuple[str, ...]:
    """Returns the 1,000 names of ImageNet-1k; the index is the class id.

    No two are the same, not even where upper and lower case are one.
    """
    text = resources.files("igpt_jax").joinpath("imagenet_classes.txt").read_text(encoding="utf-8")
    return tuple(text.splitlines())
