"""Data sets as files: from the folders they come in to records and an index; the builders are in ``data/``.

``pairs`` reads an image with its mask, ``index`` says what a split holds, ``lists`` and ``meta_files`` read split
lists, ``scan`` checks files in parallel, ``builder`` writes records. Nothing here draws episodes: that is
``input_pipeline``, which reads what this package writes.
"""
