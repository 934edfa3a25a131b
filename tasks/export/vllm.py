"""Language models as folders that the server of vLLM loads unmodified, with a client.

The folder holds a plain causal LM. It is checked against transformers; vLLM itself is not part of the tests.
"""

import json
from pathlib import Path

from ...lm import SpeechLM
from ...lm.features import SpeechLMForConditionalGeneration, language_model, max_positions
from ...lm.loading import write_generation_config
from ...tokenizer.cards import code_block, front_matter, license_of, usage_section, write_card
from ...tokenizer.files import whole_files, write_whole
from .plain import load_plain, lost_tasks

ALLOWED_FILE = "allowed_token_ids.json"
CLIENT_FILE = "client.py"
_SERVED_NAME = "speech"
# vLLM applies most of generation_config.json, but not its `suppress_tokens`: each request has to name the allowed ids.
_CLIENT = '''"""Ask a vLLM server for speech: python client.py MODEL TEXT OUT.wav [URL]

MODEL is the folder or hub id that was exported; it holds the codec. Needs: pip install focallm openai
"""

import json
import re
import sys
from pathlib import Path

from openai import OpenAI

from focallm.lm import SpeechLMProcessor
from focallm.tokenizer import write_audio

ALLOWED_IDS = json.loads(Path(__file__).with_name("allowed_token_ids.json").read_text())


def speak(processor: SpeechLMProcessor, text: str, url: str, **options: object) -> list[int]:
    """Return the codes that the server writes for a text; options are those of completions.create."""
    prompt = processor(text=text)["input_ids"][0]
    answer = OpenAI(base_url=url, api_key="none").completions.create(
        model="speech",
        prompt=prompt,
        **{"max_tokens": MAX_TOKENS, **options},
        extra_body={"allowed_token_ids": ALLOWED_IDS},
    )
    return [int(code) for code in re.findall(r"<\\|audio_(\\d+)\\|>", answer.choices[0].text)]


if __name__ == "__main__":
    model, text, out, *rest = sys.argv[1:]
    processor = SpeechLMProcessor.from_pretrained(model)
    codes = speak(processor, text, rest[0] if rest else "http://localhost:8000/v1")
    audio = processor.decode(processor.vocabulary.audio_ids(codes))
    write_audio(out, audio, processor.audio_tokenizer.output_sampling_rate)
'''
_FEATURES_CLIENT = """
# The features are part of the prompt, which therefore is sent as embeddings.
import base64
import io

import torch

from focallm.lm import SpeechLM, SpeechLMProcessor
from focallm.lm.features import embed

lm = SpeechLM.from_pretrained(MODEL)
inputs = SpeechLMProcessor.from_lm(lm)(audio="noisy.wav", return_tensors="pt")
with torch.no_grad():
    embeddings = embed(lm.model, inputs["input_ids"], inputs["features"])[0]
buffer = io.BytesIO()
torch.save(embeddings, buffer)
# Give this to completions.create as extra_body, with prompt="" and the allowed ids of client.py.
extra_body = {"prompt_embeds": base64.b64encode(buffer.getvalue()).decode()}
"""


def export_vllm(source: str, out: Path) -> str:
    """Write a speech LM as a folder for vLLM.

    Args:
        source: "mini", a folder or a hub id.
        out: folder to write.

    Returns:
        What was written, how to serve it, and what does not work there, for people.

    Raises:
        ValueError: vLLM cannot run the model; the message says why.
    """
    lm = load_plain(source, "vLLM")
    causal_lm = language_model(lm.model)
    reads_features = isinstance(lm.model, SpeechLMForConditionalGeneration)
    vocabulary = lm.vocabulary
    with whole_files(out) as temporary:
        causal_lm.save_pretrained(temporary)
        vocabulary.tokenizer.save_pretrained(temporary)
        write_generation_config(temporary, causal_lm, vocabulary, lm.audio_tokenizer, lm.info)
        generation = json.loads((temporary / "generation_config.json").read_text())
        allowed = sorted({*vocabulary.audio_range, vocabulary.control("end")})
        write_whole(temporary / ALLOWED_FILE, json.dumps(allowed).encode())
        client = _CLIENT.replace("MAX_TOKENS", str(generation["max_new_tokens"]))
        write_whole(temporary / CLIENT_FILE, client.encode())
        _write_card(temporary, lm, source, reads_features)
    return f"{out}: serve it with {_command(lm, str(out), reads_features)}{lost_tasks(lm)}"


def _command(lm: SpeechLM, folder: str, reads_features: bool) -> str:
    command = f"vllm serve {folder} --served-model-name {_SERVED_NAME} --max-model-len {max_positions(lm.model)}"
    return f"{command} --enable-prompt-embeds" if reads_features else command


def _write_card(folder: Path, lm: SpeechLM, source: str, reads_features: bool) -> None:
    """Write how to serve the folder and how to ask for speech."""
    lines = [
        *front_matter({"license": license_of(source), "library_name": "vllm", "pipeline_tag": "text-to-speech"}),
        "# A speech language model for vLLM",
        "",
        code_block(_command(lm, "FOLDER", reads_features)),
        code_block(f"python FOLDER/{CLIENT_FILE} MODEL 'Good morning, everyone.' out.wav"),
        "",
        "MODEL is what was exported; it holds the codec. Each request has to name the ids that may be written, in "
        f"`{ALLOWED_FILE}`: vLLM does not read `suppress_tokens` in generation_config.json. This folder is checked "
        "with transformers; it was not run with vLLM itself.",
    ]
    if lm.vocabulary.codebooks > 1:
        lines += [
            "",
            f"The codec has {lm.vocabulary.codebooks} codebooks, and vLLM cannot allow each in its turn, so a model "
            "that is not certain may write codes at the wrong place. `processor.decode` of focallm leaves them out.",
        ]
    if lost_tasks(lm):
        lines += ["", lost_tasks(lm).strip()]
    if reads_features:
        lines += usage_section(_FEATURES_CLIENT.replace("MODEL", '"OWNER/NAME"'))
    write_card(folder / "README.md", lines)
