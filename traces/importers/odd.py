"""Rules for odd data that several importers share, and the check of hash ids."""

from __future__ import annotations

from tokencake.traces.errors import BadInput
from tokencake.traces.fields import array

NO_OUTPUT = "call without output tokens: 1 used"
EMPTY_PROMPT = "call without prompt tokens: 1 used"
IDS_CUT = "more hash ids than the prompt has blocks: cut"


def hash_ids(value: object, field: str) -> list[int]:
    """Return ``value`` if it is an array of integers."""
    ids = array(value, field)
    if not set(map(type, ids)) <= {int}:
        odd = next(i for i, item in enumerate(ids) if type(item) is not int)
        raise BadInput("must be an integer", field=f"{field}[{odd}]", value=ids[odd])
    return ids
