"""Amounts as people read them."""

import pytest

from featstore.amounts import brief, duration, pace, size


@pytest.mark.parametrize(
    ("seconds", "shown", "in_a_column"),
    [
        (0, "0 ms", "–"),
        (0.25, "250 ms", "250 ms"),
        (119, "119.0 s", "119.0 s"),
        (600, "10 min 0 s", "10 min"),
        (9000, "2 h 30 min", "2.5 h"),
    ],
)
def test_durations(seconds, shown, in_a_column):
    assert (duration(seconds), brief(seconds)) == (shown, in_a_column)


@pytest.mark.parametrize(("rate", "shown"), [(12_400, "12,400/s"), (1, "1/s"), (0.25, "4.0 s each"), (0, "0/s")])
def test_what_takes_longer_than_a_second_is_not_shown_as_none_a_second(rate, shown):
    assert pace(rate) == shown


def test_sizes():
    assert [size(n) for n in (0, 1024, 3 * 1024**3 // 2)] == ["0 B", "1.0 KiB", "1.5 GiB"]
