"""Generated from `protos/dynasor_serve/api/reasoning`: see the comments there."""
