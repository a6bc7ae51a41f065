"""Hypervisor drivers: `base` is the vocabulary, the rest are implementations."""
