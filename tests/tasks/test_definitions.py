"""What the package knows about its tasks, and what running a model must not import."""

import subprocess
import sys
from pathlib import Path

import pytest

import focallm.tasks
from focallm.lm.templates import Segment, Template
from focallm.tasks.definitions import TASKS, TEMPLATES, find_task

INFERENCE = Path(focallm.tasks.__path__[0]) / "inference"
TRAINING_MODULES = (
    "focallm.lm.training",
    "focallm.tokenizer.training",
    "focallm.tasks.training",
    "focallm.tasks.evaluation",
    "datasets",
    "transformers.trainer",
    "matplotlib",
    "tensorboard",
)


def test_inference_imports_no_training_code():
    modules = [path.stem for path in INFERENCE.glob("[a-z]*.py")]
    assert len(modules) > 8
    script = "import importlib, sys\n"
    script += f"for module in {modules}: importlib.import_module(f'focallm.tasks.inference.{{module}}')\n"
    script += f"print([name for name in {TRAINING_MODULES} if name in sys.modules])"
    process = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert process.stdout.strip() == "[]"


def test_every_public_function_is_exported_under_the_name_of_its_module():
    for name in focallm.tasks.__all__:
        assert getattr(focallm.tasks, name).__name__ == name
    for name in ("inputs", "sing", "_private"):
        assert not hasattr(focallm.tasks, name)


def test_the_templates_are_those_of_the_tasks():
    assert list(TEMPLATES) == list(TASKS)
    assert all(TASKS[name].template is template for name, template in TEMPLATES.items())


def test_a_template_of_a_recipe_is_a_task():
    names = Template("names", (Segment("features", "noisy", "noisy_features"), Segment("text", "who", "speaker", True)))
    definition = find_task("names", (names,))
    assert definition.template is names
    assert definition.tokenize_options == "--mix configs/mix/enhancement.yaml --features"
    assert find_task("tts", (names,)) is TASKS["tts"]


def test_a_template_of_a_recipe_replaces_that_of_a_task():
    template = Template("pronounce", TEMPLATES["pronounce"].segments[1:])
    definition = find_task("pronounce", (template,))
    assert definition.template is template
    assert definition.data_source == "lexicon"


def test_an_unknown_task_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"no task is called 'sing': choose one of tts, zero-shot, .*pronounce, or"):
        find_task("sing")
