"""The job tables (pure), the journal, recovery."""
