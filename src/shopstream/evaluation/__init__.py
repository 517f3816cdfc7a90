"""How good detection is: genuine days and attacks whose truth is known, through the product as it is shipped."""

__all__: list[str] = []
