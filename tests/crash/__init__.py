"""Real processes, real kills, real network cuts."""
