"""How the ways to explain an answer are called, wherever one is told."""

from __future__ import annotations

EXACT = "class activation map, exact"
GRAD_CAM = "Grad-CAM"
TOKENS = "gradient times tokens"
OCCLUSION = "occlusion"
