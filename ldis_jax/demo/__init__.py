"""The web page: ``python -m ldis_jax.demo --model=DIR``.

``page.py``, ``image_tab.py``, ``video_tab.py`` and ``widgets.py`` lay it out in Gradio; ``uploads.py``,
``pictures.py``, ``videos.py`` and ``examples.py`` do the work as plain functions that know no Gradio.
"""
