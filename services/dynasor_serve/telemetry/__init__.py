"""Kit: how does one see what a process does?

The metric catalogue with its own registry per process, and JSON logs with the query, pool and worker at the
top level. A process's `app.py` builds both once and passes them on; the domain knows neither.
`docs/metrics.md` shows the catalogue to people and a test holds the two equal.
"""
