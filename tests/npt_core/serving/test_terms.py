"""Who states on what terms a classifier answers, and who is heard."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from npt_core.serving.terms import Agreed, Terms, agree

THRESHOLD = st.none() | st.floats(0, 1)
PRIORS = st.none() | st.just({}) | st.just({"a": 1.0, "b": 2.0}) | st.just({"a": 0.0, "b": 1.0})
TERMS = st.builds(Terms, THRESHOLD, PRIORS)


@given(TERMS, TERMS, THRESHOLD)
def test_the_first_that_states_it_counts(request: Terms, alias: Terms, model: float | None) -> None:
    found = agree(request, alias).with_model(model)
    heard = [
        (value, who)
        for value, who in ((request.reject_below, "request"), (alias.reject_below, "alias"), (model, "model"))
        if value is not None
    ]
    assert (found.reject_below, found.reject_below_from) == (heard[0] if heard else (0.0, "default"))
    stated = [(p, who) for p, who in ((request.priors, "request"), (alias.priors, "alias")) if p is not None]
    priors, who = stated[0] if stated else (None, None)
    assert (found.priors, found.priors_from) == ((priors, who) if priors else (None, None))


def test_a_request_can_switch_the_priors_of_an_alias_off() -> None:
    assert agree(Terms(priors={}), Terms(priors={"a": 1.0})) == Agreed()
