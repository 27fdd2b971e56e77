"""LDIS in JAX: in-context segmentation via latent diffusion models."""

from typing import TYPE_CHECKING, Any

from ldis_jax.errors import LDISError

if TYPE_CHECKING:
    from ldis_jax.pipeline import LDISPipeline

__version__ = "0.1.0"
__all__ = ["LDISError", "LDISPipeline", "__version__"]


def __getattr__(name: str) -> Any:
    # Imported on first use: `--help` must not wait for jax.
    if name == "LDISPipeline":
        from ldis_jax.pipeline import LDISPipeline

        return LDISPipeline
    raise AttributeError(f"module 'ldis_jax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
