"""Image generation with generative pre-trained Transformers in JAX and Flax."""

__version__ = "0.1.0"
