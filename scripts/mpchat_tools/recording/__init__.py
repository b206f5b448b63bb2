"""Recording: real programs on terminals, and what they show as an animated SVG."""
