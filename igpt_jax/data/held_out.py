"""Which things are held out, told by their names alone: the same on every machine, for ever."""

import hashlib


def is_held_out(name: str, share: float) -> bool:
    """Whether a name is among the share of all names that is held out.

    The first 64 bits of the name's SHA-256, as a share of 2^64, are compared with `share`: what a
    small share holds out, a larger one holds out too, and other names change nothing.

    Args:
        name: Of anything; file names in no valid Unicode have a hash, too.
        share: In [0, 1].
    """
    digest = hashlib.sha256(name.encode(errors="backslashreplace")).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64
