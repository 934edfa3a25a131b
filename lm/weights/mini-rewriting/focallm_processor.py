"""The processor of a speech language model is in the package focallm: pip install focallm."""

from focallm.lm import SpeechLMProcessor  # noqa: F401
