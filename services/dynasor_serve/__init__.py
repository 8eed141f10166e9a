"""Serve LLM reasoning programs: spend compute where it still changes the answer.

A query becomes a *program*: many engine calls with one purpose. Four processes work on it (`gateway`,
`tracker`, `evaluator`, `scheduler`); they meet only through `api`, the generated wire contracts. What they
decide is written in the domain packages (`programs`, `certaindex`, `scheduling`), which do no I/O, so that
the same code serves live traffic, replays recorded traces and simulates a cluster. Between the two lie the
kits: `engines`, `state`, `rpc` and `telemetry`. `local` puts all of it on one machine and `cli` is the
command `dynasor`.

Import direction, checked by import-linter: cli → local → processes → kits → domain.
"""
