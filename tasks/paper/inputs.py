"""Table 10: the same task from codes (discrete) and from the encoder's features (continuous)."""

from collections.abc import Mapping

from ...lm import SpeechLM
from ..evaluation.evaluate import evaluate_systems
from ..evaluation.results import CEILING, RECORDING
from ..evaluation.systems import TASK_INPUT, mixed_systems
from ..inference.inputs import open_model
from .columns import columns_of
from .measured import measured
from .published import published
from .rendering import Row, Table
from .resynthesis import REFERENCE, notes
from .table_config import TableConfig, names_of

TASKS = {heard: task for task, heard in TASK_INPUT.items()}


def inputs_table(config: TableConfig) -> Table:
    """Enhancement and separation of the first corpus, mixed as the recipes have it, by one model from both inputs.

    Beside it the recordings, what the codec leaves of them, and doing nothing.

    Raises:
        ValueError: a model that was not trained for a recipe's task, or no recipe.
    """
    rows = published(10) + rewritten(config, config.model, {t: open_model(config.model, t) for t in TASKS.values()})
    return Table("Table 10: discrete and continuous input", columns_of(rows), rows, notes(config))


def rewritten(config: TableConfig, name: str, models: Mapping[str, SpeechLM]) -> list[Row]:
    """The rows of enhancement and separation by models, which are given by their task.

    Raises:
        ValueError: no recipe for them.
    """
    test_set, items = config.first
    rows = []
    for mixer in config.mixers(items, *(kind for kind, task in TASKS.items() if task in models)):
        task = TASKS[mixer.input_name]
        chosen = config.some(mixer.rows)
        systems, ids = mixed_systems(task, mixer, chosen, models[task]), names_of(test_set, chosen, mixer)
        found = evaluate_systems(systems, ids, config.metrics(items), config.seed, config.record, config.progress)
        for system, lines in found.items():
            way = lines[0].get("input")  # of what the model wrote
            shown = {RECORDING: REFERENCE, CEILING: f"{REFERENCE} through the codec"}.get(system, system)
            rows.append(measured(name if way else shown, lines, config.seed, input=way, task=task.upper()))
    return rows
