"""Costs of the real programs on TPUs, predicted by the TPU compiler on any machine."""
