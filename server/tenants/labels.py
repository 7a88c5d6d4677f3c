"""The names that people give: to keys, to tenants, and the member that a key names."""

from server.errors import InvalidRequest

_LONGEST = 100


def require(value: object, *, field: str) -> str:
    """Give `value` back if it is a name: 1 to 100 printable characters, not all blank.

    Raises:
        InvalidRequest: it is not; `field` is what the caller is told to mend.
    """
    if (
        not isinstance(value, str)
        or not 1 <= len(value) <= _LONGEST
        or not value.isprintable()
        or value.isspace()
    ):
        raise InvalidRequest(
            f"`{field}` must be a text of 1 to {_LONGEST} printable characters.", param=field
        )
    return value
