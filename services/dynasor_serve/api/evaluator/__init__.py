"""Generated from `protos/dynasor_serve/api/evaluator`: see the comments there."""
