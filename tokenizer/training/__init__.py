"""Training of the codec: a recipe, its stages, and the run."""

from .chain import read_stages, result_folder
from .config import CodecTrainingConfig, read_recipe
from .run import train_codec

__all__ = ["CodecTrainingConfig", "read_recipe", "read_stages", "result_folder", "train_codec"]
