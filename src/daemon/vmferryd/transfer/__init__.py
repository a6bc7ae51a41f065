"""The data plane between two daemons."""
