"""Tables 5 and 10: probes and speech LMs on the tokens of each codec."""

from collections.abc import Mapping
from pathlib import Path

from ...lm.model import SpeechLM
from ...tokenizer.configs import check_keys, read_json
from ..evaluation.results import CEILING, RECORDING
from ..evaluation.systems import TASK_INPUT, mixed_systems, speech_systems
from ..inference.inputs import open_model
from .measured import REFERENCE, item_ids, measured_row
from .published import published_rows
from .rendering import Interval, Row, Table, used_columns
from .table_config import TableConfig

# Probe -> task and column in Table 5.
PROBES = {"asr": ("ASR", "wer"), "speaker": ("SI", "er"), "emotion": ("SER", "er")}
LM_TASKS = ("se", "ss", "tts")


def downstream_table(config: TableConfig) -> Table:
    """Return Table 5: the probes and speech LMs that are trained in `RUNS/CODEC/TASK`.

    The notes hold the commands that train the others.

    Raises:
        ValueError: The config names no folder of runs, or lacks the data or recipes that the speech LMs need.
    """
    if config.runs is None:
        raise ValueError(
            "Table 5 needs trained probes and models: give --runs FOLDER with a subfolder CODEC/TASK for each"
        )
    rows = published_rows(5)
    notes: list[str] = []
    for spec, baseline in zip(config.codecs, config.baselines, strict=True):
        # Programs such as Codec2 have no tokens to train on.
        if baseline.tokenizer is None:
            continue
        codec, _, _ = spec.partition("=")
        runs = config.runs / Path(codec).name
        commands = []
        for task in PROBES:
            result_path = runs / task / "result.json"
            if result_path.is_file():
                rows.append(_probe_row(baseline.name, task, result_path))
            else:
                commands.append(f"focallm probe {task} STORE {runs / task}")
        has_models = False
        for task in LM_TASKS:
            model_path = runs / task / "model"
            if model_path.is_dir():
                rows += _model_rows(config, baseline.name, task, SpeechLM.from_pretrained(model_path))
                has_models = True
            else:
                commands.append(f"focallm train {task} STORE {runs / task}")
        for command in commands:
            notes.append(f"Not trained yet: {command} --codec {spec}")
        if has_models:
            notes += config.notes()
    # The notes on measurements are the same for every codec.
    unique_notes = list(dict.fromkeys(notes))
    return Table("Table 5: downstream tasks", used_columns(rows), rows, unique_notes)


def _probe_row(codec: str, task: str, result_path: Path) -> Row:
    result = read_json(result_path)
    check_keys(result, {"rate": float, "low": float, "high": float, "n": int, "seed": int}, str(result_path))
    title, column = PROBES[task]
    rate = Interval(100 * result["rate"], 100 * result["low"], 100 * result["high"])
    return Row(f"{codec} (n = {result['n']}, seed {result['seed']})", {"task": title, column: rate})


def _model_rows(config: TableConfig, codec: str, task: str, lm: SpeechLM) -> list[Row]:
    if task != "tts":
        return mixed_rows(config, codec, {task: lm})
    test_set, corpus = config.first_corpus
    items = config.choose(corpus)
    systems = speech_systems(items, lm, seed=config.seed)
    results = config.evaluate(systems, items, item_ids(test_set, items))
    rows = []
    for system, item_results in results.items():
        rows.append(measured_row(f"{codec}, {system}", item_results, config.seed, task="TTS"))
    return rows


def inputs_table(config: TableConfig) -> Table:
    """Return Table 10: enhancement and separation from codes (discrete) and from encoder features (continuous).

    Beside the model's rows are the recordings, what the codec preserves of them, and the input itself.

    Raises:
        ValueError: The model was not trained for a task, or there is no mixing recipe for it.
    """
    models = {task: open_model(config.model, task) for task in TASK_INPUT}
    rows = published_rows(10) + mixed_rows(config, config.model, models)
    return Table("Table 10: discrete and continuous input", used_columns(rows), rows, config.notes())


def mixed_rows(config: TableConfig, name: str, models: Mapping[str, SpeechLM]) -> list[Row]:
    """Return the rows of enhancement (se) and separation (ss) on the first corpus.

    Args:
        config: configuration; its mixing recipes make the inputs.
        name: name of the models' rows.
        models: a model for each task.

    Raises:
        ValueError: There is no mixing recipe for the tasks.
    """
    test_set, corpus = config.first_corpus
    task_of_input = {TASK_INPUT[task]: task for task in models}
    rows = []
    for mixer in config.mixers(corpus, *task_of_input):
        task = task_of_input[mixer.input_name]
        items = config.choose(mixer.rows)
        systems = mixed_systems(task, mixer, items, models[task])
        results = config.evaluate(systems, items, item_ids(test_set, items, mixer))
        for system, item_results in results.items():
            # Only the systems of the model say what their input was.
            input_kind = item_results[0].get("input")
            if input_kind:
                row_name = name
            elif system == RECORDING:
                row_name = REFERENCE
            elif system == CEILING:
                row_name = f"{REFERENCE} through the codec"
            else:
                row_name = system
            rows.append(measured_row(row_name, item_results, config.seed, input=input_kind, task=task.upper()))
    return rows
