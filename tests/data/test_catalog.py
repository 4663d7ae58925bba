"""Cards are found by the beginning of a name and by what they are for."""

import pytest

from deblora.data.catalog import matching, named, read_catalog
from deblora.errors import DataError


def test_a_name_needs_neither_case_nor_hyphens_nor_its_end() -> None:
    cards = read_catalog()
    assert all(named(cards, card.name.lower().replace("-", " ")) is card for card in cards)
    with pytest.raises(DataError, match="is not in the catalog"):
        named(cards, "no such set")


def test_filters_keep_what_they_name_and_refuse_what_no_card_has() -> None:
    cards = read_catalog()
    found = matching(cards, sensor="SAR")
    assert found and all("sar" in card.sensor.split(";") for card in found)
    with pytest.raises(DataError, match="no data set has the sensor 'radio'"):
        matching(cards, sensor="radio")
