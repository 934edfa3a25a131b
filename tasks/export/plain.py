"""Which models engines for plain causal language models can run, and what is lost there."""

from peft import PeftModel

from ...lm import SpeechLM
from ...lm.features import restart_ids


def load_plain(source: str, engine: str) -> SpeechLM:
    """Load a model that an engine for plain causal language models can run, with its adapters merged.

    Args:
        source: "mini", a folder or a hub id.
        engine: name of the engine, for error messages.

    Raises:
        ValueError: The model needs more than its weights: the controller of aligned speech, or positions that restart.
    """
    lm = SpeechLM.from_pretrained(source)
    if isinstance(lm.model, PeftModel):
        lm.merge()
    if lm.info.writes_only_aligned_speech:
        raise ValueError(
            f"{source} writes speech phoneme by phoneme: while it writes, a controller feeds it the phonemes of the "
            f"text, and {engine} has no such controller. Use focallm serve, or train the task tts (focallm train tts)"
        )
    if restart_ids(lm.model):
        raise ValueError(
            f"{source} reads features, and its positions restart where its output begins, but {engine} counts "
            "positions through. Use the functions of focallm, or train a task of codes (focallm train se)"
        )
    return lm


def lost_tasks(lm: SpeechLM) -> str:
    """Return a sentence about the tasks of a model that an engine for plain causal language models cannot do."""
    aligned = [template.name for template in lm.info.templates if template.target.kind == "aligned"]
    if not aligned:
        return ""
    return f" Not possible there: {', '.join(aligned)}, which need the controller of aligned speech."
