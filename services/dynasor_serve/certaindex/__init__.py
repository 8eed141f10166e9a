"""Certaindex: how settled a reasoning program is, and what to do about it.

The way an answer takes: `answers.extract` reads it from a sample's text, `answers.canonical` gives it a key, `clusters`
groups equal keys, `votes` is what a rule sees of the groups, `rules` holds one module per stopping rule, and `verdict`
is what a rule says. `entropy` is the paper's formula (arXiv 2412.20993, section 3.1).

A chain of thought is asked for its answer on the way: `probe_schedule` says when, `trial_answer` reads the reply (with
`hesitation`), `clusters` groups the answers, and `trials` is what a rule over one chain sees. `token_confidence` is how
sure a model is of its tokens, in a reply or in a branch.

Pure: no I/O, no clock, no randomness, and nothing imported from the rest of `dynasor_serve`. The tracker applies it in
process at each arrival; the replay and the calibration apply the same code to recorded traces.
"""
