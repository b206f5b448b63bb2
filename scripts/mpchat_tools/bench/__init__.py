"""How fast servers pass messages on, and what that takes, compared with each other."""
