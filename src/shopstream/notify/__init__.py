"""Who is told: notification policy, messages and channels."""
