"""The whole system on one machine: a Redis-protocol server, an engine and the four processes, started and
stopped together.

`dynasor up` and `dynasor demo` call it. It starts the processes as a cluster would, each by its own
`__main__` with settings in the environment, so that what runs on a laptop is what runs in pods.
"""
