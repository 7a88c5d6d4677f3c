"""Money as whole micro-dollars; the only place where decimal text becomes a number."""

from decimal import Decimal

MICROS = 1_000_000


def micros(usd: str) -> int:
    """Turn a plain decimal of dollars, at most six places, into micros: "4.00" is 4,000,000.

    A price is the same text per million tokens, and so becomes micros per million tokens.
    """
    return millionths(usd)


def millionths(number: str) -> int:
    """Turn a plain decimal, at most six places, into whole millionths: "1.75" is 1,750,000."""
    scaled = Decimal(number) * MICROS
    whole = int(scaled)
    if whole != scaled:
        raise ValueError(f"{number} has more than six decimal places")
    return whole


def dollars(amount_micros: int) -> str:
    """Write micros for people: cents at least, and as many places as there are: "$1.2345"."""
    sign, whole = "-" if amount_micros < 0 else "", abs(amount_micros)
    text = f"{whole // MICROS}.{whole % MICROS:06d}"
    return f"{sign}${text[:-4]}{text[-4:].rstrip('0')}"
