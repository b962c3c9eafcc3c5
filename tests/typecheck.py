"""The type checker of the test-suite: beartype, with an int wherever a float is wanted (PEP 484)."""

from beartype import BeartypeConf, beartype

checked = beartype(conf=BeartypeConf(is_pep484_tower=True))
