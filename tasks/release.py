"""Release a trained codec or language model: weights in half precision, and a model card from the logs of the run."""

import csv
import hashlib
import logging
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from ..lm import SpeechLM
from ..lm.card import lm_licenses, lm_limits, lm_metadata, lm_usage
from ..lm.loading import is_speech_lm
from ..tokenizer import AudioTokenizer
from ..tokenizer.cards import (
    code_block,
    escape,
    front_matter,
    license_section,
    section,
    table_row,
    write_card,
)
from ..tokenizer.codec_card import CODEC_METADATA, codec_limits, codec_usage
from ..tokenizer.configs import read_json
from ..tokenizer.files import remove_leftovers
from ..tokenizer.json_lines import read_json_lines
from ..tokenizer.runs import is_finished
from ..tokenizer.training.config import StageConfig, read_stages, result_folder
from .evaluation.results import table_of_record
from .inference.measured import MEASURED

logger = logging.getLogger(__name__)

_NO_RESULTS = "Unknown: no measurement was given to the command that wrote this card."
_PAUSE = 10  # a gap of so many median gaps in a log means that the run was interrupted


def release(recipe: Path, run: Path, out: Path, license: str, evaluations: Sequence[Path], seed: int) -> str:
    """Write the weights of a run and their model card.

    Args:
        recipe: YAML file that the model was trained with.
        run: Folder of the run.
        out: Folder for weights and card.
        license: License of the weights, for the metadata of the card.
        evaluations: Records that `focallm evaluate --record` wrote for these weights.
        seed: Seed of the confidence intervals.

    Returns:
        One line about the weights.

    Raises:
        OSError: There is no such run, or it is not finished.
        ValueError: A record holds no results of these weights.
    """
    if not run.is_dir():
        raise FileNotFoundError(
            f"there is no run at {run}: name the folder that `focallm train` or `train-codec` wrote"
        )
    # What a killed process left would be uploaded with the folder.
    remove_leftovers(out)
    # A path that does not exist could be taken for a hub id.
    if (run / "model").is_dir() and is_speech_lm(run / "model"):
        release_lm(recipe, run, out, license, evaluations, seed)
    else:
        release_codec(recipe, run, out, license, evaluations, seed)
    weights = out / "model.safetensors"
    return f"{weights}: {_megabytes(weights)}, and its card, {out / 'README.md'}"


def release_codec(recipe: Path, run: Path, out: Path, license: str, evaluations: Sequence[Path], seed: int) -> None:
    """Write a codec and its card. Arguments and errors are those of `release`."""
    stages = read_stages(recipe, run)
    missing = []
    for folder, config in stages.items():
        if not is_finished(folder, result_folder(folder, config)):
            missing.append(str(folder))
    if missing:
        raise OSError(f"not trained yet: {missing}. Train them with focallm train-codec {recipe} CORPUS {run}")

    # Stages build on each other, so the last one holds the finished codec.
    last, config = list(stages.items())[-1]
    AudioTokenizer.from_pretrained(result_folder(last, config), dtype="float16").save_pretrained(out)
    # Rounding to half precision changes the weights, so the record of an evaluation is looked up with the saved ones.
    tokenizer = AudioTokenizer.from_pretrained(out)
    data = read_json(run / "data.json")
    parameters = sum(p.numel() for p in tokenizer.codec.parameters())
    lines = [
        *front_matter({"license": license, **CODEC_METADATA}),
        f"# {escape(out.name)}: a speech codec",
        "",
        f"{type(tokenizer.codec).__name__}: {tokenizer.sampling_rate} Hz speech <-> {tokenizer.frame_rate:g} tokens/s, "
        f"{tokenizer.bits_per_second:.0f} bit/s; {parameters / 1e6:.2f} M parameters, half precision, "
        f"{_megabytes(out / 'model.safetensors')}.",
        _checksum(out / "model.safetensors"),
        "",
        "## Training data",
        "",
        f"{data['utterances']} utterances, {data['hours']:.2f} h; sha256 of the list of ids, durations and texts: "
        f"`{data['sha256']}`.",
        "",
        "| source | license | speakers | utterances | hours |",
        "|---|---|---|---|---|",
    ]
    for group in data["groups"]:
        # Runs of version 0.1 spell the key differently.
        terms = group.get("license") or group["licence"]
        lines.append(table_row(group["source"], terms, group["speakers"], group["utterances"], group["hours"]))
    lines += [
        "",
        "It is an open question whether weights inherit the terms of recordings. These are the credits and terms.",
        "",
        "## Training",
        "",
        code_block(f"focallm train-codec {recipe} CORPUS {run}"),
        "",
        "| stage | updates | batch | hours | device | last validation |",
        "|---|---|---|---|---|---|",
    ]
    for folder, config in stages.items():
        lines.append(_stage_row(folder, config))
    lines += ["", *_sources_of_parts(stages, run)]
    encoder = tokenizer.codec.config.encoder  # type: ignore[attr-defined]  # a FocalCodec
    if encoder["type"] == "whisper":
        layers = encoder["num_layers"]
        lines.append(
            f"Its encoder is the first {layers} layers of that of Whisper base by OpenAI, under the MIT license."
        )
    for record in evaluations:
        lines += ["", f"## Results: {_title(record)}", "", table_of_record(record, [tokenizer.codec], seed)]
    if not evaluations:
        lines += section("Results", _NO_RESULTS)
    lines += codec_usage(tokenizer.codec)
    lines += license_section({"weights": license, "training recordings": "see the table of training data"})
    lines += codec_limits(tokenizer.codec)
    write_card(out / "README.md", lines)


def release_lm(recipe: Path, run: Path, out: Path, license: str, evaluations: Sequence[Path], seed: int) -> None:
    """Write a language model, its results and its card. Arguments and errors are those of `release`."""
    if not (run / "model").is_dir():
        raise OSError(f"{run} has no model yet: train it with focallm train TASK STORE {run} --recipe {recipe}")
    if not is_finished(run, run / "model"):
        logger.warning(
            "%s is not recorded as finished, so the card may describe other weights than those of its model: the same "
            "focallm train command finishes it",
            run,
        )

    SpeechLM.from_pretrained(run / "model", dtype="float16").save_pretrained(out)
    # As for a codec, the record is looked up with the weights that were saved.
    lm = SpeechLM.from_pretrained(out)
    results = []
    for record in evaluations:
        table = table_of_record(record, [lm.model, lm.audio_tokenizer.codec], seed)
        results += [_title(record), "", table, ""]
    write_card(out / MEASURED, results[:-1])

    values = read_json(run / "recipe.json")
    tasks = [source["template"]["name"] for source in values["sources"]]
    lines = [
        *front_matter({"license": license, **lm_metadata(lm.info)}),
        f"# {escape(out.name)}: a speech language model",
        "",
        _architecture(lm, out / "model.safetensors"),
        _checksum(out / "model.safetensors"),
    ]
    if lm.info.voices:
        lines.append(f"Voices: {escape(', '.join(lm.info.voices))}.")
    lines += [
        "",
        "## Training",
        "",
        code_block(f"focallm train {tasks[0]} STORE {run} --recipe {recipe}"),
        "",
        "| task | examples | ids | times per epoch |",
        "|---|---|---|---|",
    ]
    for source in values["sources"]:
        lines.append(table_row(source["template"]["name"], source["examples"], source["ids"], source["repeat"]))
    lines.append("")
    if values["base"]:
        lines += [f"Training started from the weights of {escape(values['base'])}.", ""]
    last = _last_validation(run)
    lines += [
        f"{last['step']} updates, {float(last['epoch']):.1f} epochs, seed {values['seed']}; validation loss "
        f"{float(last['eval_loss']):.3f} nats per target id.",
    ]
    lines += section("Results", *(results[:-1] or [_NO_RESULTS]))
    lines += lm_usage(lm.info)
    lines += lm_licenses(license, values["base"] or "", lm.info.audio_tokenizer, out)
    lines += lm_limits(lm.info, lm.audio_tokenizer)
    write_card(out / "README.md", lines)


def _architecture(lm: SpeechLM, weights: Path) -> str:
    """Model type, sizes and codec of a language model, in two sentences."""
    config: Any = lm.model.config.get_text_config()
    tokenizer = lm.audio_tokenizer
    # A model without a named codec has a copy of the codec in its folder.
    name = lm.info.audio_tokenizer
    codec = "the codec in its folder" if (weights.parent / name).is_dir() else f"the codec {escape(name)}"
    return (
        f"Model type {config.model_type}, {config.num_hidden_layers} layers of width {config.hidden_size}, "
        f"{lm.model.num_parameters() / 1e6:.1f} M parameters, half precision, {_megabytes(weights)}. It reads and "
        f"writes the tokens of {codec} ({type(tokenizer.codec).__name__}, {tokenizer.tokens_per_second:g} tokens/s, "
        f"{tokenizer.bits_per_second:.0f} bit/s) and of no other, an earlier version of the same name included."
    )


def _stage_row(folder: Path, config: StageConfig) -> str:
    """The row of one training stage, from its log."""
    times = []
    validation: dict[str, float] = {}
    for _, values in read_json_lines(folder / "log.jsonl", appended=True):
        times.append(values["time"])
        # Later validations replace earlier ones.
        if "validation_loss" in values:
            validation = values
    figures = []
    for name, value in validation.items():
        if name.startswith("validation_") or name in ("codes_used", "tokens", "entropy_bits"):
            figures.append(f"{name.removeprefix('validation_').replace('_', ' ')} {value:.4g}")
    batch = f"{config.batch_size} utterances"
    if config.clip_seconds:
        batch = f"{config.batch_size * config.clip_seconds:.0f} s"
    device = read_json(folder / "machine.json").get("device", "unknown")
    return table_row(folder.name, config.steps, batch, training_hours(times), device, ", ".join(figures))


def training_hours(times: Sequence[float]) -> float:
    """Hours between the first and the last line of a log, without the interruptions of the run.

    Args:
        times: Time of each line, in seconds.
    """
    gaps = sorted(after - before for before, after in pairwise(times))
    if not gaps:
        return 0.0
    # Clocks of two machines may disagree, so a negative gap is an interruption as well.
    longest = _PAUSE * max(gaps[len(gaps) // 2], 1.0)
    return sum(gap for gap in gaps if 0 <= gap <= longest) / 3600


def _sources_of_parts(stages: dict[Path, StageConfig], run: Path) -> list[str]:
    """Sentences about weights that come from outside of this run."""
    sources: dict[str, str] = {}
    trained: set[str] = set()
    for config in stages.values():
        if config.stage == "teacher":  # it trains no codec
            continue
        trained.update(config.trainable_parts)
        for part, source in config.parts_from.items():
            if not Path(source).is_relative_to(run):
                sources[part] = source
    sentences = []
    for part, source in sources.items():
        origin = "started from that of" if part in trained else "is that of"
        sentences.append(f"The {part} {origin} {escape(source)}.")
    return sentences


def _last_validation(run: Path) -> dict[str, str]:
    """The last row of a language model's `losses.csv` that has a validation loss."""
    with (run / "losses.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["eval_loss"]]
    return rows[-1]


def _title(record: Path) -> str:
    return escape(record.stem.replace("_", " ").replace("-", " "))


def _checksum(weights: Path) -> str:
    return f"`{weights.name}`: sha256 `{hashlib.sha256(weights.read_bytes()).hexdigest()}`."


def _megabytes(weights: Path) -> str:
    return f"{weights.stat().st_size / 1e6:.1f} MB"
