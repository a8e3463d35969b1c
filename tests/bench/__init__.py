"""`make bench`: what the hub costs, as ratios and absolutes, each beside its target."""
