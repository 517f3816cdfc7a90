"""Tools for rule authors: backtests on history, explanations, and rule tests."""
