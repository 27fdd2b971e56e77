"""One file, one class, one question; each receives a predict function and never sees a model.

``run(predict)`` yields (name, value). ``predict`` takes the arrays of
:func:`ldis_jax.input_pipeline.network_arrays` with a leading batch axis, and ``index`` int32 [B], and returns
R float32 [B, S, S, 3], of NumPy or, still being computed, of JAX.
"""

from ldis_jax.evaluators.davis import DavisMetrics, boundary_f, jaccard
from ldis_jax.evaluators.episodes import EpisodeEvaluator
from ldis_jax.evaluators.mean_iou import MeanIoU
from ldis_jax.evaluators.prompt_swap import PromptSwapEvaluator
from ldis_jax.evaluators.sheets import SheetEvaluator
from ldis_jax.evaluators.video_consistency import VSPWMetrics, video_consistency

__all__ = [
    "DavisMetrics",
    "EpisodeEvaluator",
    "MeanIoU",
    "PromptSwapEvaluator",
    "SheetEvaluator",
    "VSPWMetrics",
    "boundary_f",
    "jaccard",
    "video_consistency",
]
