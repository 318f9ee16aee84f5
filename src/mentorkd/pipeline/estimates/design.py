"""What the design of a recipe can show: the minimum detectable effect of its headline, before anything is measured."""

from __future__ import annotations

from dataclasses import dataclass

from mentorkd.recipe.graph import arms, headline_student, initial_model
from mentorkd.recipe.schema import Recipe
from mentorkd.reporting.statistics import planned_effect

DISAGREEMENT, SCATTER = 0.28, 0.05
"""Share of questions that one of two students alone answers correctly, and the scatter of their difference between seeds: what the
runs of the package's tiny models had (docs/results/own-texts.md, self-taught.md: 21 to 32 %, 4.2 to 5.8 points)."""

_ENOUGH = 0.1
"""A design that shows nothing under ten points is called too small."""


@dataclass(frozen=True)
class Design:
    """The size of a comparison, and the smallest true difference that it detects with 80 % power."""

    questions: int
    seeds: int
    arms: int
    """Arms of the student's model, whose scatter between seeds is estimated together."""
    detectable: float
    """A share; above 1: no difference can be detected."""

    @property
    def words(self) -> str:
        return "none: too few questions" if self.detectable > 1 else f"{100 * self.detectable:.1f} points"

    @property
    def basis(self) -> str:
        alone = "; with one seed, of these trained models alone" if self.seeds == 1 else ""
        return (
            f"{self.questions:,} test questions, {self.seeds} seed{'s' if self.seeds > 1 else ''}, {self.arms} arms of one model; "
            f"assumed: {100 * DISAGREEMENT:.0f} % of answers differ, seeds scatter by {100 * SCATTER:.0f} points{alone}"
        )

    def warnings(self) -> list[str]:
        """What to change in a design that shows too little."""
        found = []
        if self.seeds == 1:
            found.append(
                "one seed: a difference may be that of two trainings and not of two learners; give three `seeds` or more"
            )
        if self.detectable > _ENOUGH:
            found.append(f"the design detects {self._limits()}")
        return found

    def _limits(self) -> str:
        """What the design does not detect, and which larger ones detect more."""
        count = f"{self.questions:,} test question{'s' if self.questions > 1 else ''}"
        if self.detectable > 1:
            return f"no difference at all: {count} are too few"
        seeds, questions = max(5, 2 * self.seeds), 4 * self.questions
        larger = {
            f"{seeds} seeds": self.with_size(seeds=seeds),
            f"{questions:,} questions": self.with_size(questions=questions),
        }
        better = [
            f"{design.words} with {what}" for what, design in larger.items() if design.detectable < self.detectable
        ]
        number = f"{count}, {self.seeds} seed{'s' if self.seeds > 1 else ''}"
        return f"no difference under {'; '.join([f'{self.words} ({number})', *better])}"

    def with_size(self, *, questions: int | None = None, seeds: int | None = None) -> Design:
        """The same comparison at another size."""
        return design_of(questions or self.questions, seeds or self.seeds, self.arms)


def design_of(questions: int, seeds: int, arms: int) -> Design:
    effect = planned_effect(questions, seeds, arms, disagreement=DISAGREEMENT, scatter=SCATTER)
    return Design(questions, seeds, arms, effect)


def design_of_recipe(recipe: Recipe, questions: int) -> Design | None:
    """The comparison of the headline; None for a recipe with fewer than two arms or without test questions."""
    names = arms(recipe)
    if len(names) < 2 or not questions:
        return None
    model = initial_model(recipe, headline_student(recipe))
    alike = [name for name in names if initial_model(recipe, name) == model]
    return design_of(questions, len(recipe.seeds), max(2, len(alike)))
