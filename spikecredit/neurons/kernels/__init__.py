"""The neurons' time loops as single autograd nodes."""
