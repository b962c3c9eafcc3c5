"""TensorFlow's checkpoints, TF1 and TF2: `PREFIX.index` beside `PREFIX.data-00000-of-00001`."""

from pathlib import Path

import jax
import numpy as np

from igpt_jax.errors import UserError
from igpt_jax.interop.lazy_arrays import DTYPES, LazyArrays, StoredArray, naming_damage


def open_tensorflow(prefix: Path) -> LazyArrays:
    """Open a checkpoint by the package tensorflow; only its index is read.

    Args:
        prefix: such as `model.ckpt-1000000`, without `.index`.

    Returns:
        The variables by name, without text such as TF2's graph of objects. TF2 names them like
        `model/layer/kernel/.ATTRIBUTES/VARIABLE_VALUE`.

    Raises:
        UserError: the package is not installed, or the checkpoint is not whole.
    """
    try:
        import tensorflow as tf  # pyrefly: ignore[missing-import]
    except ImportError as error:
        raise UserError(
            f"weights {prefix}: expected the package tensorflow to read a TensorFlow checkpoint, "
            "got none; pip install 'igpt_jax[tensorflow]'"
        ) from error
    with naming_damage(prefix):
        reader = tf.train.load_checkpoint(str(prefix))
        shapes = reader.get_variable_to_shape_map()
        dtypes = reader.get_variable_to_dtype_map()

    def stored(name: str) -> StoredArray:
        def read_rows(start: int, stop: int) -> np.ndarray:
            array = np.asarray(reader.get_tensor(name))
            if (array.shape, array.dtype) != (spec.shape, spec.dtype):
                raise ValueError(f"{name} is not of the shape and dtype of the index")
            return array[start:stop].copy() if array.shape and stop - start < len(array) else array

        spec = jax.ShapeDtypeStruct(tuple(shapes[name]), DTYPES[dtypes[name].name])
        return StoredArray(prefix, spec, read_rows)

    return LazyArrays(
        {name: stored(name) for name in sorted(shapes) if dtypes[name].name in DTYPES}
    )
