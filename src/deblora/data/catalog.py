"""The catalog of open data sets for pre-training and adaptation: facts with their source, nothing downloaded."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources

from deblora.errors import DataError

UNKNOWN = "unknown"


@dataclass(frozen=True)
class Card:
    """What is known of one data set; "unknown" where we are not sure, "none" where there is nothing."""

    name: str  # as in its paper
    year: str  # of publication
    sensor: str  # one or more of optical, sar, multispectral, thermal, natural (photographs), with semicolons
    task: (
        str  # what labels are for, with semicolons; ``chips`` where objects can be cut out for classification
    )
    n_images: str  # as the paper gives it
    size_px: str  # side of an image in pixels, or a range
    gsd_m: str  # ground sample distance in meters, or a range
    n_classes: str
    license: str  # as the providers state it
    obtain: str  # official page, or the paper that leads to it
    reader: str  # values of ``data.format`` that read it as published, with semicolons
    reference: str  # paper
    remark: str  # what a user should know


def read_catalog() -> tuple[Card, ...]:
    """Return every card, in the order of the file."""
    text = resources.files("deblora.data").joinpath("catalog.csv").read_text(encoding="utf-8")
    return tuple(Card(**row) for row in csv.DictReader(text.splitlines()))


def matching(
    cards: Sequence[Card], *, sensor: str | None = None, task: str | None = None, reader: str | None = None
) -> tuple[Card, ...]:
    """Return the cards that have the given sensor, task and reader.

    Raises:
        DataError: If no card at all has such a sensor, task or reader; names those there are.
    """
    for field, wanted in (("sensor", sensor), ("task", task), ("reader", reader)):
        known = sorted({word for card in cards for word in getattr(card, field).split(";")})
        if wanted is not None and wanted.lower() not in known:
            raise DataError(f"no data set has the {field} {wanted!r}; choose one of {', '.join(known)}")
        if wanted is not None:
            cards = [card for card in cards if wanted.lower() in getattr(card, field).split(";")]
    return tuple(cards)


def named(cards: Sequence[Card], name: str) -> Card:
    """Return the card of a name; case, spaces and hyphens do not matter, and the beginning of a name is enough.

    Raises:
        DataError: If none or several fit.
    """
    found = [card for card in cards if _plain(card.name) == _plain(name)]
    found = found or [card for card in cards if _plain(card.name).startswith(_plain(name))]
    if len(found) == 1:
        return found[0]
    if found:
        raise DataError(
            f"{name!r} fits several data sets: {', '.join(card.name for card in found)}; name one"
        )
    raise DataError(
        f"{name!r} is not in the catalog; its data sets: {', '.join(card.name for card in cards)}"
    )


def _plain(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum() or letter == ".")
