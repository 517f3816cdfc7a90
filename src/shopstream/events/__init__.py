"""What flows: the event, its fields, its identity, and how it is written in bytes."""
