"""What each host does in each phase of a migration."""
