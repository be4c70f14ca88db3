"""Gradients at the sites of a plan, from growth data: the numbers that methods work with."""

from keras_grow.growth.statistics.gradients import Gradients, Response, SiteGradients
from keras_grow.growth.statistics.measuring import Measured, measure
from keras_grow.growth.statistics.recording import Record, Recording, fan_out_slots
from keras_grow.growth.statistics.shadows import SiteShadows
from keras_grow.growth.statistics.spectra import rank_of, signed, top_directions, unit

__all__ = [
    "Gradients",
    "Measured",
    "Record",
    "Recording",
    "Response",
    "SiteGradients",
    "SiteShadows",
    "fan_out_slots",
    "measure",
    "rank_of",
    "signed",
    "top_directions",
    "unit",
]
