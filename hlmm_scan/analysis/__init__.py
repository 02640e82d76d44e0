"""From results to answers: dispersion effects, calibration, independent hits."""
