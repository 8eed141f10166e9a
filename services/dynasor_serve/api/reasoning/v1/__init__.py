"""Generated from `protos/dynasor_serve/api/reasoning/v1`: see the comments there."""
