"""Stopping rules, one module per rule, chosen by type string. `registry` finds them, `rule` says what one is."""

from dynasor_serve.certaindex.rules.registry import (
    RuleEntry,
    parse_chain_rule,
    parse_rule,
    parse_vote_rule,
    rule_catalogue,
)
from dynasor_serve.certaindex.rules.rule import ChainRule, Evidence, InvalidRule, Rule, VoteRule, token_window

__all__ = [
    "ChainRule",
    "Evidence",
    "InvalidRule",
    "Rule",
    "RuleEntry",
    "VoteRule",
    "parse_chain_rule",
    "parse_rule",
    "parse_vote_rule",
    "rule_catalogue",
    "token_window",
]
