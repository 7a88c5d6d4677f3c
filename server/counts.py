"""Counts of things, as people read them."""


def counted(count: int, thing: str, things: str | None = None) -> str:
    """Say `1 request` or `2,000 requests`; `things` is a plural that is not made with an s."""
    return f"1 {thing}" if count == 1 else f"{count:,} {things or f'{thing}s'}"
