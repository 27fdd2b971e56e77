"""TPU chips, and descriptions of slices that programs are compiled for without having one."""

from __future__ import annotations

import dataclasses
import os
import re
from typing import Any

from ldis_jax.errors import LDISError


@dataclasses.dataclass(frozen=True)
class Chip:
    """Published figures of one chip.

    Attributes:
        memory: bytes of HBM.
        flops: bfloat16 operations a second.
        clock: cycles a second of the compiler's estimates: flops over what the matrix units do in a cycle.
        link: bytes a second that the links to other chips of the slice carry, all of them, one way.
        network: bytes a second and chip of the data-centre network between slices.
    """

    memory: int
    flops: float
    clock: float
    link: float
    network: float


# Google Cloud's pages on each generation; links are stated there in bits a second and both ways.
CHIPS = {
    "v5e": Chip(16 * 10**9, 197e12, 197e12 / (2 * 4 * 128 * 128), 100e9, 3.1e9),
    "v5p": Chip(95 * 10**9, 459e12, 459e12 / (2 * 8 * 128 * 128), 300e9, 6.2e9),
    "v6e": Chip(32 * 10**9, 918e12, 918e12 / (2 * 4 * 256 * 256), 224e9, 6.2e9),
}


def get_chip(topology: str) -> Chip:
    """The chip of a topology such as "v5e:4x4"; raises :class:`LDISError` on others."""
    generation = topology.partition(":")[0]
    # Of a grid with a 0 the compiler would divide by it.
    if generation not in CHIPS or not re.fullmatch(r"\w+:[1-9]\d*(x[1-9]\d*)*", topology):
        raise LDISError(f"--topology={topology}: must be {', '.join(CHIPS)} with a grid of chips, as in v5e:4x4")
    return CHIPS[generation]


# What JAX calls devices, by the start of the name -> bfloat16 operations a second, without sparsity: the chips above,
# and NVIDIA's data sheets.
_PEAK_FLOPS = {
    "TPU v5 lite": CHIPS["v5e"].flops,
    "TPU v5e": CHIPS["v5e"].flops,
    "TPU v5": CHIPS["v5p"].flops,
    "TPU v6 lite": CHIPS["v6e"].flops,
    "TPU v6e": CHIPS["v6e"].flops,
    "NVIDIA A100": 312e12,
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA H100": 989e12,
    "NVIDIA H200": 989e12,
}


# Options of the TPU compiler that shorten the predicted step, by how the devices' names may start; docs/tpu.md has the
# figures. They are part of the program, so that no environment variable need be set.
_COMPILER_OPTIONS = {
    # Gradients travel in pieces of 8 MB while the backward pass goes on. The compiler allows it on this chip alone.
    ("TPU v5 lite", "TPU v5e"): {
        "xla_enable_async_all_reduce": "true",
        "xla_tpu_enable_async_collective_fusion_fuse_all_reduce": "true",
        "xla_jf_crs_combiner_threshold_in_bytes": "8388608",
    },
}


def compiler_options(device_kind: str) -> dict[str, str]:
    """Options for compiling the training step, by ``jax.Device.device_kind`` of real devices or of a topology's."""
    return next((options for kinds, options in _COMPILER_OPTIONS.items() if device_kind.startswith(kinds)), {})


def peak_flops(device_kind: str) -> float | None:
    """The peak of a device that runs here, ``jax.Device.device_kind``; None where it is not known."""
    return next((flops for kind, flops in _PEAK_FLOPS.items() if device_kind.startswith(kind)), None)


def prepare_compile_only() -> None:
    """Sets what compiling for chips that are not there needs. To be called before jax is imported."""
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    for name, value in {
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_ACCELERATOR_TYPE": "v5litepod-1",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "true",  # several compilations at once; its lock is about real chips
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "JAX_ENABLE_COMPILATION_CACHE": "false",  # it cannot read such programs back, and keeps 100 MB of each
    }.items():
        os.environ.setdefault(name, value)


def slice_devices(topology: str, slices: int = 1) -> list[Any]:
    """Devices of so many slices of a topology such as "v5e:4x4", to compile for.

    Raises:
        LDISError: libtpu is not installed, or does not know the topology.
    """
    get_chip(topology)
    from jax.experimental import topologies

    options: dict[str, Any] = {"num_slices": slices} if slices > 1 else {}
    if topology in ("v5e:2x4", "v6e:2x4"):  # v5litepod-8 and v6e-8 are one host; the compiler would take two
        options["chips_per_host_bounds"] = (2, 4, 1)
    try:
        found = topologies.get_topology_desc(platform="tpu", topology_name=topology, **options)
    except Exception as error:  # whatever the plugin raises
        message = " ".join(str(error).split())[:200]
        raise LDISError(f"--topology={topology}: the TPU compiler says: {message}; is libtpu installed?") from None
    return list(found.devices)
