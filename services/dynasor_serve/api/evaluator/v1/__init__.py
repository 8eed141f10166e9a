"""Generated from `protos/dynasor_serve/api/evaluator/v1`: see the comments there."""
