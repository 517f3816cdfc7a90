"""What shoppers do: active sessions, funnel, open carts and top lists, live; and one shopper's timeline."""
