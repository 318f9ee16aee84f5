"""Filters of texts that nobody reads: no fault, since a reader may have been removed for a while, but worth a warning."""

from __future__ import annotations

from mentorkd.recipe.graph import links_of
from mentorkd.recipe.learner import SelectConfig
from mentorkd.recipe.schema import Recipe
from mentorkd.records import SELF


def unread_filters(recipe: Recipe) -> list[str]:
    """A sentence for each learner whose `select` filters texts that nobody reads."""
    unset = [SelectConfig()]
    if recipe.protocol == "paper":
        unset.append(SelectConfig(deduplicate=False))  # which the protocol fills in for every learner
    links = links_of(recipe)
    read = {name for own in links.values() for name in own.rationales}
    return [
        f"learners.{name}.select filters nothing, since no learner reads the texts of `{name}`; to filter what it reads, set "
        "`reads: {SOURCE: {...}}`"
        for name, learner in recipe.learners.items()
        if learner.select not in unset and name not in read and SELF not in links[name].rationales
    ]
