"""Repairs of cuts in closed form, folded into stock weights, from streams of the whole model."""
