"""LDIS in torch, written plainly from shared/method.md, and the random weights and inputs both sides are fed.

``weights`` and ``cases`` need no torch; ``alpha_clip`` and ``torch_ldis`` do.
"""
