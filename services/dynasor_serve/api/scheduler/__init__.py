"""Generated from `protos/dynasor_serve/api/scheduler`: see the comments there."""
