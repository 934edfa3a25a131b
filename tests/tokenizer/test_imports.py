"""Importing the package is cheap, and the Auto classes still find the codecs."""

import subprocess
import sys

import pytest

HEAVY = {
    "datasets",
    "matplotlib",
    "torch",
    "transformers.modeling_utils",
    "transformers.models.dac",
    "transformers.models.encodec",
    "transformers.models.mimi",
    "transformers.models.xcodec2",
    "transformers.trainer",
}
CODEC_MODELS = {name for name in HEAVY if name.startswith("transformers.models.")}


def run(code: str) -> str:
    """Run code in a fresh interpreter and return what it prints."""
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    return process.stdout.strip()


def imported_modules(code: str) -> set[str]:
    return set(run(f"{code}\nimport sys\nprint(*sys.modules)").split())


@pytest.mark.parametrize("module", ["focallm", "focallm.tokenizer"])
def test_importing_the_package_imports_nothing_heavy(module):
    assert imported_modules(f"import {module}") & HEAVY == set()


def test_the_audio_tokenizer_imports_no_model_before_it_loads_one():
    assert imported_modules("from focallm.tokenizer import AudioTokenizer") & (HEAVY - {"torch"}) == set()


def test_using_a_focalcodec_imports_no_other_codec_and_no_training_code():
    modules = imported_modules("from focallm.tokenizer import AudioTokenizer\nAudioTokenizer.from_pretrained('mini')")
    assert modules & (CODEC_MODELS | {"datasets", "matplotlib", "transformers.trainer"}) == set()
    codecs = {name.rpartition(".")[2] for name in modules if name.startswith("focallm.tokenizer.codecs.")}
    assert codecs == {"auto", "pattern"}


def test_speaking_imports_no_training_code():
    modules = imported_modules("from focallm import speak\nspeak('No.')")
    unneeded = {"datasets", "librosa", "matplotlib", "numba", "pandas", "peft", "tensorboard", "transformers.trainer"}
    assert modules & (CODEC_MODELS | unneeded) == set()


@pytest.mark.parametrize(
    "order", ["import focallm.tokenizer\nimport transformers", "from transformers import AutoModel"]
)
def test_auto_classes_know_the_codecs_after_importing_the_package(order, tmp_path, codec, tiny_codec):
    codec("tiny_50hz").save_pretrained(tmp_path / "focalcodec")
    tiny_codec("bigcodec").save_pretrained(tmp_path / "bigcodec")
    code = f"""
{order}
import focallm.tokenizer
from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, AutoProcessor
mini = focallm.tokenizer.__path__[0] + "/weights/mini"
for auto_class in (AutoFeatureExtractor, AutoProcessor):
    print(type(auto_class.from_pretrained(mini)).__name__)
for name in ("focalcodec", "bigcodec"):
    folder = {str(tmp_path)!r} + "/" + name
    print(type(AutoConfig.from_pretrained(folder)).__name__, type(AutoModel.from_pretrained(folder)).__name__)
print(AutoConfig.for_model("focalcodec").codebook_size)
"""
    assert run(code).splitlines() == [
        "FocalCodecFeatureExtractor",
        "FocalCodecFeatureExtractor",
        "FocalCodecConfig FocalCodecModel",
        "BigCodecConfig BigCodecModel",
        "8192",
    ]
