from __future__ import annotations

from mentorkd.sharing.sections import replace_section

CARD = "# A\n\n## Use\n\nold\n\n```\n# code\n```\n\n## Accuracy\n\nnone\n"


def test_a_section_takes_the_place_of_its_older_one() -> None:
    assert replace_section(CARD, "Use", r"new \1") == "# A\n\n## Use\n\nnew \\1\n\n## Accuracy\n\nnone\n"
    assert replace_section(CARD, "Accuracy", "some") == CARD.replace("none", "some")


def test_a_new_section_is_the_last() -> None:
    assert replace_section(CARD, "Checked", "well\n") == CARD + "\n## Checked\n\nwell\n"
