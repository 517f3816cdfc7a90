"""Sends notifications about incidents: messages, channels and the sender."""
