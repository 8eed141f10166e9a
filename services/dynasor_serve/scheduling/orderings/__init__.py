"""Orderings: whose call goes next? One module each, named after its type string."""
