"""Sends notifications about incidents: messages and channels."""
