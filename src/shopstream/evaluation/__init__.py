"""Measures detection: genuine days and attacks with known ground truth, through the product as shipped."""
