"""COCO instances -> a label map. Worker processes import this file, so it stays light."""

from __future__ import annotations

import dataclasses
import io
from typing import Any

import numpy as np
from PIL import Image

from ldis_jax.errors import LDISError
from ldis_jax.media.masks import IGNORE_LABEL


@dataclasses.dataclass(frozen=True, slots=True)
class Instances:
    """The instances of an image, as a mask that is yet to be drawn.

    Attributes:
        name: for error messages.
        height: of the image.
        width: likewise.
        instances: (label 1..80, COCO annotation) each.
    """

    name: str
    height: int
    width: int
    instances: tuple[tuple[int, dict[str, Any]], ...]

    def png(self) -> bytes:
        """An 8-bit grey PNG of :meth:`labels`."""
        buffer = io.BytesIO()
        Image.fromarray(self.labels()).save(buffer, format="PNG")
        return buffer.getvalue()

    def labels(self) -> np.ndarray:
        """uint8 [H, W]: large instances first, so that small ones lie on top; 255 where there is only a crowd.

        Raises:
            LDISError: an annotation that pycocotools cannot draw.
        """
        labels = np.zeros((self.height, self.width), np.uint8)
        crowd = np.zeros(labels.shape, bool)
        try:
            for label, annotation in sorted(self.instances, key=lambda pair: -pair[1]["area"]):
                if annotation["iscrowd"]:
                    crowd |= self._mask(annotation["segmentation"])
                else:
                    labels[self._mask(annotation["segmentation"])] = label
        except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
            raise LDISError(f"{self.name}: an instance cannot be drawn ({error!r}); fetch the file again") from None
        labels[crowd & (labels == 0)] = IGNORE_LABEL
        return labels

    def _mask(self, segmentation: Any) -> np.ndarray:
        """Polygons, or run lengths as numbers (crowds) or as a string -> bool [H, W]."""
        from pycocotools import mask

        if isinstance(segmentation, list):
            segmentation = mask.merge(mask.frPyObjects(segmentation, self.height, self.width))
        elif isinstance(segmentation["counts"], list):
            segmentation = mask.frPyObjects(segmentation, self.height, self.width)
        return mask.decode(segmentation).astype(bool)
