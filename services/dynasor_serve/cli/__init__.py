"""The command `dynasor`: the outermost layer, which may import all others and is imported by none.

One module per subcommand; each reads its options, calls one function of the layer that does the work and
prints the result for people or, with `--json`, for programs.
"""
