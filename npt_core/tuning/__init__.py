"""Tuning: config, feature cache, the only training loop, evaluation. `npt_core.tune` is the front door."""
