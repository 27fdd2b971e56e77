"""Writes ``golden/tiny.npz``, torch's results of every case: ``python -m tests.parity.make_golden``.

It holds outputs only, thinned: weights and inputs are drawn again from names (``tests/reference/weights.py``).
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from tests.reference import cases

GOLDEN = Path(__file__).parent / "golden" / "tiny.npz"
_KEPT = 600


def thin(output: np.ndarray) -> np.ndarray:
    """At most 600 evenly spaced numbers of an output, and its largest magnitude; float32."""
    flat = output.ravel()
    index = np.linspace(0, flat.size - 1, min(_KEPT, flat.size)).astype(int)
    return np.append(flat[index], np.abs(flat).max()).astype(np.float32)


def main() -> None:
    from tests.reference import torch_cases

    with tempfile.TemporaryDirectory() as folder:
        models = torch_cases.references(Path(folder))
        golden = {case: thin(torch_cases.torch_output(case, models)) for case in cases.CASES}
    GOLDEN.parent.mkdir(exist_ok=True)
    np.savez_compressed(GOLDEN, allow_pickle=False, **golden)
    print(f"{GOLDEN}: {len(golden)} cases, {GOLDEN.stat().st_size} bytes")


if __name__ == "__main__":
    main()
