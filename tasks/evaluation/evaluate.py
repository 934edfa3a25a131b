"""Evaluate a codec or a speech LM on recordings with transcripts.

`evaluate` follows four steps: read the items, make the systems (`systems.py`), measure every item of every system
(`runner.py` and `metrics/`), and make the table of the results (`results.py`). No output is selected with the help of
the reference, except in the row that says so.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ...data.corpus import read_corpus
from ...data.mixing.mix_config import MixConfig
from ...data.mixing.mixer import Mixer, Premixed
from ...data.utterance import Utterance
from ...tokenizer.audio_tokenizer import AudioTokenizer
from ...tokenizer.configs import load_config
from ..inference.inputs import open_enhancer, open_model
from .baselines import name_row
from .metrics import load_scorers
from .metrics.metric import RATE
from .results import lock_record, table_of_results
from .runner import choose_items, evaluate_systems, read_with_texts
from .systems import TASK_INPUT, codec_systems, mixed_systems, speech_systems

TASKS = ("codec", "tts", "se", "ss")


@dataclass(frozen=True)
class EvaluationConfig:
    """Settings of an evaluation.

    Args:
        task: "codec", "tts", "se" (enhancement) or "ss" (separation).
        data: Corpus with transcripts.
        model: "mini", a folder or a hub id.
        limit: Number of items, chosen by the seed; 0 for all.
        scorers: Set of metrics, as in `load_scorers`.
        seed: Seed of the choice of items, of the sampling and of the confidence intervals.
        mix: YAML file that makes noisy or mixed input from the corpus, for "se" and "ss".
        noise: Corpus of noise recordings, for mix files that need one.
        asr: ASR model to use instead of that of the scorers, as in `load_asr`.
        language: Language of the recordings, as a code of Whisper.
        baselines: Evaluate baselines on the same items.
        record: JSON-lines file of results. Results that it holds are not measured again, and new ones are added.
        layout: Name of a published corpus, if `data` has its layout.
        utmos: Checkout of UTMOS's repository.
        progress: Show a progress bar.
    """

    task: str
    data: Path
    model: str = "mini"
    limit: int = 0
    scorers: str = "mel"
    seed: int = 0
    mix: Path | None = None
    noise: Path | None = None
    asr: str | None = None
    language: str = "en"
    baselines: bool = False
    record: Path | None = None
    layout: str | None = None
    utmos: str | None = None
    progress: bool = False

    def __post_init__(self) -> None:
        """Check the task.

        Raises:
            ValueError: The task is unknown, or takes no `mix`.
        """
        if self.task not in TASKS:
            raise ValueError(f"unknown task {self.task!r}: `evaluate` takes one of {', '.join(TASKS)}")
        if self.mix is not None and self.task not in TASK_INPUT:
            raise ValueError(
                f"`evaluate {self.task}` does not take --mix, found {self.mix}. Only `evaluate se` and `evaluate ss` "
                "have noisy or mixed input: leave out --mix"
            )


def evaluate(config: EvaluationConfig) -> str:
    """Run an evaluation, and return a heading and a Markdown table.

    Raises:
        ValueError: The scorers are unknown, the recordings have no transcripts, or they do not fit the task.
        ImportError: A metric or a baseline is not installed.
        OSError: Another process adds to the record.
    """
    metrics = load_scorers(config.scorers, config.asr, config.language, config.utmos)
    corpus = read_with_texts(config.data, config.layout)
    # The mixer gets the whole corpus, so that a mixture does not depend on which items are chosen.
    mixer = _open_mixer(config, corpus)
    if mixer is None:
        items = choose_items(corpus, config.limit, config.seed)
    else:
        items = choose_items(mixer.rows, config.limit, config.seed, partial(mixer.example, sampling_rate=RATE))

    if mixer is not None:
        model = open_enhancer(config.model) if config.task == "se" else open_model(config.model, config.task)
        systems = mixed_systems(config.task, mixer, items, model, config.baselines)
    elif config.task == "codec":
        tokenizer = AudioTokenizer.from_pretrained(config.model)
        systems = codec_systems(items, tokenizer, name_row(config.model), config.baselines)
    else:
        systems = speech_systems(items, open_model(config.model, config.task), config.seed, config.baselines)

    ids = [item.id for item in items]
    with lock_record(config.record):
        results = evaluate_systems(systems, ids, metrics, config.seed, config.record, config.progress)
    heading = f"{config.task} {config.model} on {config.data.name}, scorers: {config.scorers}"
    return f"{heading}\n\n{table_of_results(results, config.seed)}"


def _open_mixer(config: EvaluationConfig, corpus: list[Utterance]) -> Mixer | Premixed | None:
    """Open what makes or reads noisy or mixed input; None for tasks without it.

    Raises:
        ValueError: The task needs such input and there is none, or the corpus provides input that the task cannot use.
    """
    num_sources = len(corpus[0].sources)
    if config.task in TASK_INPUT:
        if config.mix is not None:
            noise = read_corpus(config.noise) if config.noise else ()
            return Mixer(load_config(MixConfig, config.mix).for_evaluation(), corpus, noise)
        if num_sources == 0:
            raise ValueError(
                "`evaluate se` and `evaluate ss` need noisy or mixed input. Pass --mix RECIPE.yaml, or a corpus that "
                "provides it (--layout voicebank, libri2mix)."
            )
        return Premixed(corpus)
    # A codec also takes noisy speech with its clean source, but no mixtures of speakers.
    if num_sources > (1 if config.task == "codec" else 0):
        kind = "noisy speech" if num_sources == 1 else "mixtures of speakers"
        raise ValueError(
            f"`evaluate {config.task}` needs clean recordings, but {config.data} holds {kind}. Pass another corpus, or "
            f"use `evaluate {'se' if num_sources == 1 else 'ss'}`"
        )
    return None
