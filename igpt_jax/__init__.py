"""Image generation with generative pre-trained Transformers in JAX and Flax.

model = igpt_jax.load("runs/demo")
images = model.sample(labels=[7, 42], seed=0)
tokens = model.encode(images)
"""

from typing import TYPE_CHECKING, Any

from igpt_jax.errors import UserError

if TYPE_CHECKING:
    from igpt_jax import interop
    from igpt_jax.baselines.config import BaselineConfig
    from igpt_jax.baselines.model import BaselineModel
    from igpt_jax.baselines.stored import load_baseline
    from igpt_jax.config import RunConfig
    from igpt_jax.finetuning.classifier import Classifier, load_classifier
    from igpt_jax.finetuning.config import FinetuneConfig
    from igpt_jax.model import Model
    from igpt_jax.stored import load

__version__ = "0.1.0"
__all__ = [
    "BaselineConfig",
    "BaselineModel",
    "Classifier",
    "FinetuneConfig",
    "Model",
    "RunConfig",
    "UserError",
    "__version__",
    "interop",
    "load",
    "load_baseline",
    "load_classifier",
]

_HOMES = {
    "BaselineConfig": "igpt_jax.baselines.config",
    "BaselineModel": "igpt_jax.baselines.model",
    "Classifier": "igpt_jax.finetuning.classifier",
    "FinetuneConfig": "igpt_jax.finetuning.config",
    "Model": "igpt_jax.model",
    "RunConfig": "igpt_jax.config",
    "load": "igpt_jax.stored",
    "load_baseline": "igpt_jax.baselines.stored",
    "load_classifier": "igpt_jax.finetuning.classifier",
}


def __getattr__(name: str) -> Any:
    """Imports a public name when it is first used: `import igpt_jax` alone stays light."""
    import importlib

    if name == "interop":
        return importlib.import_module("igpt_jax.interop")
    if name not in _HOMES:
        raise AttributeError(f"module 'igpt_jax' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    """The public names."""
    return __all__
