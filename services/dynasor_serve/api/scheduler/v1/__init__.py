"""Generated from `protos/dynasor_serve/api/scheduler/v1`: see the comments there."""
