"""What is wrong: rules as data, and their verdicts on windows."""
