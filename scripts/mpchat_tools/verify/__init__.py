"""Whether every client receives exactly what it should, in quiet times (stress) and in trouble (chaos)."""
