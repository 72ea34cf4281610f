"""Stage 1, stage 2, and the loop that runs either."""
