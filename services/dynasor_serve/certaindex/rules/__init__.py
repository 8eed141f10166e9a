"""Stopping rules, one module per rule, chosen by type string. `registry` finds them, `rule` says what one is."""

from dynasor_serve.certaindex.rules.registry import RuleEntry, parse_rule, rule_catalogue
from dynasor_serve.certaindex.rules.rule import InvalidRule, Rule

__all__ = ["InvalidRule", "Rule", "RuleEntry", "parse_rule", "rule_catalogue"]
