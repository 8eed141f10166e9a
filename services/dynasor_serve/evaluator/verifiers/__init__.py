"""Rewards that are computed: is this candidate right, by the rules of its task?

`verifier` is what they have in common, `registry` knows them by their names, and each has a module of its own. They are
asked through `verification_pool`.
"""
