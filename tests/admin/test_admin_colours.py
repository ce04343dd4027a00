"""The status page's colours can be read: WCAG 2.2, criteria 1.4.3 (text, 4.5:1) and 1.4.11 (what is no text, 3:1)."""

from __future__ import annotations

import re

import pytest

from cef_trio.admin.app import page

CSS = page().body.decode()
THEMES = [
    dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{3,6})\b", block))
    for block in re.findall(r":root \{(.*?)\}", CSS, re.DOTALL)
]
TEXT_ON = [
    *(("ink", ground) for ground in ("ground", "card", "warn-ground", "bad-ground")),
    *(("soft", ground) for ground in ("ground", "card", "track")),
    *(("accent", ground) for ground in ("ground", "card")),
    *((colour, f"{colour}-ground") for colour in ("accent", "good", "warn", "bad")),
    ("warn", "card"),
    ("bad", "card"),
]


def luminance(colour: str) -> float:
    digits = colour[1:] if len(colour) == 7 else "".join(digit * 2 for digit in colour[1:])
    channels = [int(digits[n : n + 2], 16) / 255 for n in (0, 2, 4)]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    lighter, darker = sorted((luminance(one), luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


@pytest.mark.parametrize("theme", THEMES, ids=["light", "dark"])
def test_every_colour_can_be_read_on_its_ground(theme: dict[str, str]) -> None:
    assert contrast("#000", "#ffffff") == pytest.approx(21)
    for text, ground in TEXT_ON:
        assert contrast(theme[text], theme[ground]) >= 4.5, (text, ground)
    assert len(THEMES) == 2
    assert contrast(theme["accent"], theme["track"]) >= 3  # how far a bar is
