"""The command `dynasor`: the outermost layer, which may import all others and is imported by none.

Each subcommand reads its options, calls one function of the layer that does the work, and prints the result.
"""
