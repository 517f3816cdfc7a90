"""Measures detection on synthetic shops: days without attacks, and attacks with known ground truth."""
