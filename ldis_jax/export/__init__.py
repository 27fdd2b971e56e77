"""Predictions as programs that run without this package; :meth:`LDISPipeline.export` and the command write them."""
