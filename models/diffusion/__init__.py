"""Networks, strategies and what stands beside them; MONAI is imported before any of them is."""

from models.monai_modules import monai_module

monai_module("networks.nets")
