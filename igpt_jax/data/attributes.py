"""What the attributes of a data set are called, and the values that each may have."""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from igpt_jax.errors import UserError

_LISTED: Final = 8  # values that an error names one by one


@dataclass(frozen=True)
class AttributeConfig:
    """One attribute of every picture.

    Attributes:
        name: What it is called.
        values: The name of each value; examples hold the position in this tuple.
    """

    name: str
    values: tuple[str, ...]

    def __post_init__(self) -> None:
        """Refuses names that tell nothing apart."""
        if not self.values or len(set(self.values)) < len(self.values):
            raise UserError(
                f"attribute {self.name}: expected different values, at least one, got {self.values}"
            )


def attributes_of(config: Any) -> tuple[AttributeConfig, ...]:
    """The attributes of a data config's examples, in their order; () where they have none.

    Nothing is opened: the config alone tells, by its `attribute_configs`.
    """
    return getattr(config, "attribute_configs", ())


def attribute_sizes(attributes: Sequence[AttributeConfig]) -> tuple[int, ...]:
    """The number of values of each attribute, as `GPTConfig.attribute_sizes` has it."""
    return tuple(len(attribute.values) for attribute in attributes)


def attribute_values(
    attributes: Sequence[AttributeConfig], asked: Mapping[str, str | int]
) -> list[int]:
    """The position of each value that is asked for by name; -1 for attributes left open.

    Args:
        attributes: All that there are.
        asked: Values by the names of their attributes; a number stands for its digits.

    Raises:
        UserError: A name or a value is none of those that there are.
    """
    values = {attribute.name: attribute.values for attribute in attributes}
    for name, value in asked.items():
        if name not in values:
            raise UserError(f"attributes: {_expected(name, values)}")
        if str(value) not in values[name]:
            raise UserError(f"attributes: {name}: {_expected(value, values[name])}")
    return [
        known.index(str(asked[name])) if name in asked else -1 for name, known in values.items()
    ]


def _expected(got: Any, names: Iterable[str]) -> str:
    """What there is, in words, and what is nearest to what was given."""
    names = list(names)
    listed = names if len(names) <= _LISTED else [*names[:2], "...", *names[-2:]]
    near = difflib.get_close_matches(str(got), names, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    return f"expected one of {', '.join(listed)}, got {got!r}{hint}"
