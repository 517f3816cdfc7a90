"""What can be done about it: blocklists, and findings for other systems."""
