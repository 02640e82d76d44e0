"""Sums over people that every way to fit is made of: within classes, by bit planes, as products."""
