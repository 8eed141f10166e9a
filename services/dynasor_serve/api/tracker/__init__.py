"""Generated from `protos/dynasor_serve/api/tracker`: see the comments there."""
