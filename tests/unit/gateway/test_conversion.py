"""Between the wire and the domain: what is asked is what is run, and what is echoed asks the same again."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dynasor_serve.api.reasoning.v1 import reasoning_pb2 as pb
from dynasor_serve.certaindex.rules.parameters import NumberParameter
from dynasor_serve.gateway.conversion import query_from, query_message
from dynasor_serve.programs.query import InvalidQuery, ProbeParameters, Query
from dynasor_serve.programs.registry import algorithm_catalogue, parse_algorithm


def other_than_default(parameter: NumberParameter) -> float:
    """A value that the parameter allows."""
    assert isinstance(parameter.default, int | float)
    middle = (parameter.default + min(parameter.maximum, parameter.default + 4)) / 2
    candidates = (middle, parameter.minimum, parameter.default / 2, parameter.maximum)
    values = map(parameter.kind, candidates)
    return next(value for value in values if parameter.allows(value) and value != parameter.default)


def back_and_forth(query: Query) -> Query:
    message = query_message(query)
    return query_from(message, model=message.model, rule="not this one", deadline_seconds=1.0)


PARAMETERS = [
    (entry.name, each)
    for entry in algorithm_catalogue()
    for each in entry.parameters
    if isinstance(each, NumberParameter)
]


@pytest.mark.parametrize(("name", "parameter"), PARAMETERS, ids=[f"{name}-{each.name}" for name, each in PARAMETERS])
def test_every_parameter_of_every_algorithm_is_echoed(name: str, parameter: NumberParameter) -> None:
    value = other_than_default(parameter)
    algorithm = str(parse_algorithm(f"{name}:{parameter.name}={value}"))
    assert f"{parameter.name}={value!r}" in algorithm

    assert back_and_forth(Query("model", "even", prompt="?", algorithm=algorithm)).algorithm == algorithm


def test_an_echo_is_typed_where_the_type_has_all_that_was_said() -> None:
    plain = Query("model", "even", prompt="?", algorithm=str(parse_algorithm("self-consistency:max_samples=3")))
    assert query_message(plain).algorithm.self_consistency == pb.SelfConsistency(max_samples=3, width=4)
    wide = Query("model", "even", prompt="?", algorithm=str(parse_algorithm("self-consistency:idle_width=9")))
    typed = pb.SelfConsistency(max_samples=16, width=4, idle_width=9)
    assert query_message(wide).algorithm.self_consistency == typed


PROBED = {"chain-of-thought": "", "self-consistency": "consensus-window"}
PROBE = ProbeParameters(prompt="deer", interval=7, marks=False, max_tokens=9)


@pytest.mark.parametrize("entry", algorithm_catalogue(), ids=lambda entry: entry.name)
def test_a_probe_is_taken_where_chains_are_probed_and_refused_elsewhere(entry: object) -> None:
    name = entry.name  # type: ignore[attr-defined]
    query = Query("model", "even", prompt="?", algorithm=str(parse_algorithm(name)), chain_rule=PROBED.get(name, ""))
    message = query_message(query)
    message.probe.CopyFrom(pb.Probe(prompt="deer", interval=7, marks=False, max_tokens=9))

    def asked() -> Query:
        return query_from(message, model="model", rule="even", deadline_seconds=query.deadline_seconds)

    if name in PROBED:
        assert asked().probe == PROBE
        assert back_and_forth(replace(query, probe=PROBE)).probe == PROBE
    else:
        with pytest.raises(InvalidQuery, match=f"^probe: is set, and {name} probes no chains; ") as refused:
            asked()
        assert refused.value.field == "probe"


@pytest.mark.parametrize("probe", [pb.Probe(interval=0), pb.Probe(marks=False), pb.Probe(prompt="deer")])
def test_a_probe_of_samples_is_refused_with_what_would_make_them_chains(probe: pb.Probe) -> None:
    with pytest.raises(InvalidQuery, match=r"give policy\.chain_rule, which makes its samples chains, or unset it"):
        query_from(pb.Query(prompt="?", probe=probe), model="", rule="even", deadline_seconds=1.0)


def test_a_probe_that_says_nothing_is_none() -> None:
    asked = query_from(pb.Query(prompt="?", probe=pb.Probe()), model="", rule="even", deadline_seconds=1.0)
    assert asked.probe == ProbeParameters()
