"""Runs side by side: what the learners' new names reach."""

from __future__ import annotations

from dataclasses import replace

from made_up_run import MENTOR, STUDENT, make_inputs
from mentorkd.pipeline.compare import _renamed


def test_new_names_reach_settings_by_source_initial_weights_and_rounds() -> None:
    by_source = {"mentor": 0.3, "self": 1.0}
    own = replace(
        STUDENT,
        rationales=["mentor", "self"],
        initial="mentor",
        kd_weight=by_source,
        temperature=by_source,
        distillation={"divergence": by_source, "layers": {1: 2}},
    )
    rounds = [{"learner": "student", "seed": 1, "frontier": [{"source": "mentor", "questions": 4, "at_floor": 1}]}]
    inputs = _renamed(
        make_inputs((MENTOR, own), (1,), 2, rounds=rounds), "a", {"mentor": "a/mentor", "student": "a/student"}
    )
    info, renamed = inputs.learners[1], {"a/mentor": 0.3, "self": 1.0}
    assert (info.name, info.initial, list(info.rationales)) == ("a/student", "a/mentor", ["a/mentor", "self"])
    assert (info.kd_weight, info.temperature) == (renamed, renamed)
    assert info.distillation == {"divergence": renamed, "layers": {1: 2}}
    [row] = inputs.rounds
    assert (row["learner"], row["frontier"][0]["source"]) == ("a/student", "a/mentor")
