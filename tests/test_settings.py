from __future__ import annotations

import pytest

from casstore.errors import InvalidSetting
from casstore.settings import SETTINGS, check_key, check_setting


@pytest.mark.parametrize("key", SETTINGS)
def test_every_setting_takes_its_default_and_what_it_says(key: str) -> None:
    setting = check_key(key)
    assert check_setting(key, setting.default) == setting.default
    assert setting.takes
    assert setting.meaning
    if setting.takes.startswith("a whole number"):
        return
    for value in setting.takes.split(" or "):
        if value.startswith("the name of"):
            continue
        assert value in setting.meaning, f"what {key}={value} means is not explained"
        assert check_setting(key, value) == value


@pytest.mark.parametrize("value", ["0", "7", "36500"])
def test_a_number_that_it_takes(value: str) -> None:
    assert check_setting("keep_days", value) == value


@pytest.mark.parametrize(
    "value", ["", "-1", "+7", "07", "7.5", "7 ", "1e3", "seven", "36501", "9" * 5000, "\u0667", "0x7"]
)
def test_a_number_that_it_does_not_take(value: str) -> None:
    with pytest.raises(InvalidSetting, match="keep_days takes a whole number of days from 0 to 36500, not"):
        check_setting("keep_days", value)


@pytest.mark.parametrize("value", ["", "FULL", " full", "full\n", "fast"])
def test_a_value_it_does_not_take(value: str) -> None:
    with pytest.raises(InvalidSetting, match="durability takes full or relaxed, not"):
        check_setting("durability", value)


def test_an_unknown_key_names_the_nearest() -> None:
    with pytest.raises(InvalidSetting, match="did you mean 'durability'"):
        check_setting("durabilty", "full")


def test_an_unknown_key_near_to_none_lists_all() -> None:
    with pytest.raises(InvalidSetting) as caught:
        check_key("zzz")
    assert all(key in str(caught.value) for key in SETTINGS)
