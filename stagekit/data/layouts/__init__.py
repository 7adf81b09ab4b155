"""Published data sets in the folders in which they come, or in which MMSegmentation puts them."""

from stagekit.data.layouts.registry import KINDS, open_dataset

__all__ = ["KINDS", "open_dataset"]
