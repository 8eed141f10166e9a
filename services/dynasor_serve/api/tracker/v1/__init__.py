"""Generated from `protos/dynasor_serve/api/tracker/v1`: see the comments there."""
