"""What the measurements are made of: asking, taking turns, timing, judging."""
