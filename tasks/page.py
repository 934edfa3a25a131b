"""A page of sounds in one file: players, spectrograms, figures and the commands behind them. T samples."""

import base64
import html
import io
from dataclasses import dataclass

import numpy as np
import soundfile
import torch

from ..tokenizer.focalcodec.mel import log_mel

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 66rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
section { margin: 2.5rem 0 }
h2 { margin-bottom: .3rem }
.row { display: flex; flex-wrap: wrap; gap: 1.5rem }
figure { margin: 0; flex: 1 1 18rem }
figcaption { font-weight: 600; margin-bottom: .3rem }
audio, img { width: 100%; display: block }
code { background: #eee; padding: .2rem .4rem; border-radius: 3px }
table { border-collapse: collapse; font-size: .9rem }
td { border-bottom: 1px solid #ccc; padding: .3rem .6rem }
"""


@dataclass(frozen=True)
class Clip:
    """Audio (T,) with its rate in Hz, and what it is."""

    title: str
    audio: np.ndarray
    sampling_rate: int


@dataclass(frozen=True)
class Section:
    """Clips side by side, what they show, and the command that makes such ones."""

    title: str
    text: str
    command: str
    clips: list[Clip]


def render_page(title: str, introduction: str, sections: list[Section], measured: str) -> str:
    """-> HTML that needs no other file and no network

    Args:
        measured: Markdown: paragraphs and tables.
    """
    body = [f"<h1>{html.escape(title)}</h1>", f"<p>{html.escape(introduction)}</p>", *map(_section, sections)]
    body += ["<section><h2>How good the weights are</h2>", _markdown(measured), "</section>"]
    return (
        f'<!doctype html>\n<html lang="en">\n<head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head>\n<body>\n'
        + "\n".join(body)
        + "\n</body>\n</html>\n"
    )


def _section(section: Section) -> str:
    clips = "\n".join(map(_figure, section.clips))
    return (
        f"<section><h2>{html.escape(section.title)}</h2>\n<p>{html.escape(section.text)}</p>\n"
        f'<p><code>{html.escape(section.command)}</code></p>\n<div class="row">\n{clips}\n</div></section>'
    )


def _figure(clip: Clip) -> str:
    sound = io.BytesIO()
    soundfile.write(sound, clip.audio, clip.sampling_rate, format="WAV", subtype="PCM_16")
    name, image = html.escape(clip.title), spectrogram(clip.audio, clip.sampling_rate)
    return (
        f"<figure><figcaption>{name}</figcaption>"
        f'<audio controls src="{_inline("audio/wav", sound.getvalue())}"></audio>'
        f'<img alt="spectrogram: {name}" src="{_inline("image/png", image)}"></figure>'
    )


def _inline(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def spectrogram(audio: np.ndarray, sampling_rate: int) -> bytes:
    """A log-mel spectrogram of (T,) audio as a PNG file."""
    from matplotlib.figure import Figure

    mel = log_mel(torch.from_numpy(audio).float()[None], sampling_rate, 1024, 256, 80)[0]
    figure = Figure(figsize=(4.5, 2), layout="constrained")
    axes = figure.subplots()
    extent = (0.0, len(audio) / sampling_rate, 0.0, 80.0)
    axes.imshow(mel.T.numpy(), origin="lower", aspect="auto", extent=extent, vmin=-9, vmax=1, cmap="magma")
    axes.set(xlabel="time, s", ylabel="mel band")
    content = io.BytesIO()
    figure.savefig(content, dpi=90, format="png")
    return content.getvalue()


def _markdown(text: str) -> str:
    """Paragraphs and tables only."""
    blocks = [block.splitlines() for block in text.split("\n\n") if block.strip()]
    return "\n".join(_table(lines) if lines[0].startswith("|") else _paragraph(lines) for lines in blocks)


def _paragraph(lines: list[str]) -> str:
    return f"<p>{html.escape(' '.join(lines))}</p>"


def _table(lines: list[str]) -> str:
    rows = [line.removeprefix("|").removesuffix("|").split("|") for line in lines if "---" not in line]
    cells = ["".join(f"<td>{html.escape(cell.strip())}</td>" for cell in row) for row in rows]
    return f"<table>{''.join(f'<tr>{row}</tr>' for row in cells)}</table>"
