"""Exported graphs compute what the models do, and the program beside them speaks without torch and without focallm."""

import dataclasses
import functools
import importlib.util
import json
import shutil
import subprocess
import sys
import threading
import time
import wave
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch

from focallm.data.phonemes import split_units
from focallm.lm import LengthWindow, SpeechLM, Vocabulary
from focallm.tasks import speak
from focallm.tasks.cli import commands as cli
from focallm.tasks.definitions import TEMPLATES
from focallm.tasks.inference.speak import default_sampling, speech_prompts
from focallm.tokenizer import AudioTokenizer, FocalCodecModel

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

ROOT = Path(__file__).parents[2]
TEXT = "A bad cab, a deaf ace: feed a bee! - He’d add a cafe?"
LEXICON = {
    "a": "ɐ", "bad": "bˈæd", "cab": "kˈæb", "deaf": "dˈɛf", "ace": "ˈeɪs", "feed": "fˈid", "bee": "bˈi", "he'd": "hˈid",
    "add": "ˈæd", "cafe": "kæfˈeɪ",
}  # fmt: skip


def export(source, out, *options):
    """Run the command, and return the class `Speaker` of the program that it wrote, if it wrote one."""
    sys.argv = ["focallm", "export", "onnx", str(source), str(out), *options]
    cli.main()
    if not (out / "speak.py").exists():
        return None
    spec = importlib.util.spec_from_file_location("exported_speak", out / "speak.py")
    program = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(program)
    return program.Speaker


def codes_of(lm, text, voice):
    """Return the codes that `speak` decodes by default."""
    codes = []
    prompts = speech_prompts(lm, text, {"speaker": voice})
    for generation in lm.generate(prompts, sampling=default_sampling(lm, by_reference=False)):
        codes += generation.codes.tolist()
    return codes


def noise(num_samples):
    return (0.1 * np.random.default_rng(num_samples).standard_normal(num_samples)).astype(np.float32)


class Streams:
    """The encoder and the decoder of an exported codec, with the states of a stream."""

    def __init__(self, folder):
        self.info = json.loads((folder / "model.json").read_text())["codec"]
        self.sessions = {}
        self.states = {}
        for part in ("encoder", "decoder"):
            self.sessions[part] = onnxruntime.InferenceSession(folder / f"{part}.onnx")
        self.reset()

    def reset(self):
        for part in self.sessions:
            state = self.info[part]["state"]
            self.states[part] = {item["name"]: np.zeros(item["shape"], item["dtype"]) for item in state}

    def run(self, part, **inputs):
        result, *state = self.sessions[part].run(None, inputs | self.states[part])
        self.states[part] = dict(zip(self.states[part], state, strict=True))
        return result


def check_codec(codec: FocalCodecModel, folder: Path, lengths) -> None:
    streams = Streams(folder)
    for length in lengths:
        samples = noise(length)
        codes = codec.encode(torch.from_numpy(samples)[None]).audio_codes
        streams.reset()
        assert np.array_equal(streams.run("encoder", samples=samples), codes[0, 0]), length
        audio = codec.decode(codes).audio_values[0, 0].numpy()
        np.testing.assert_allclose(streams.run("decoder", codes=codes[0, 0].numpy()), audio, atol=1e-4, rtol=0)


@pytest.fixture(scope="module")
def lm(codec):
    """A random model of aligned speech, whose units end at different lengths, with a random codec."""
    tokenizer = AudioTokenizer(codec("mel"))
    torch.manual_seed(0)
    vocabulary = Vocabulary.characters(["▁ˈ,.?ann bob", *LEXICON.values()], tokenizer.vocab_size)
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1}
    size = {"hidden_size": 32, "num_hidden_layers": 1, "intermediate_size": 16, "initializer_range": 0.5}
    lm = SpeechLM.from_config({**size, **heads}, tokenizer, vocabulary)
    with torch.no_grad():
        for name in ("next", "end"):
            lm.model.get_input_embeddings().weight[vocabulary.control(name)] *= 5
    pace = LengthWindow(0.03, 0.03)
    lm.info = dataclasses.replace(
        lm.info, templates=(TEMPLATES["tts-aligned"],), voices=("ann", "bob"), longest_unit_s=0.3, length_window=pace
    )
    lm.lexicon = LEXICON
    return lm


@pytest.fixture(scope="module")
def exported(lm, tmp_path_factory):
    """The folder of the exported model, and the class of its program."""
    folder = tmp_path_factory.mktemp("onnx")
    lm.save_pretrained(folder / "lm")
    return folder / "out", export(folder / "lm", folder / "out")


@pytest.mark.parametrize(("text", "voice"), [(TEXT, "ann"), ("Bee", None), (4 * TEXT, "bob")])
def test_the_program_writes_the_codes_and_samples_of_speak(lm, exported, text, voice):
    speaker = exported[1](exported[0])
    pieces = list(speaker.pieces(speaker.units(text)))
    assert pieces == split_units(lm.units(text), 120)
    codes = []
    for piece in pieces:
        codes += speaker.generate(piece, voice or "ann")
    assert codes == codes_of(lm, text, voice or "ann")
    assert len({len(speaker.generate(["▁", unit, "."], "ann")) for unit in pieces[0]}) > 1  # lengths are the model's
    np.testing.assert_allclose(speaker.speak(text, voice), speak(text, lm, voice=voice).audio, atol=1e-4, rtol=0)


def test_the_program_needs_neither_torch_nor_focallm(lm, exported, tmp_path):
    program = (
        "import runpy, sys\n"
        "for name in ('torch', 'transformers', 'focallm'): sys.modules[name] = None\n"
        f"sys.argv = ['speak.py', {TEXT!r}, {str(tmp_path / 'a.wav')!r}, '--voice', 'bob']\n"
        f"runpy.run_path({str(exported[0] / 'speak.py')!r}, run_name='__main__')\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=tmp_path)
    with wave.open(str(tmp_path / "a.wav")) as file:
        samples = np.frombuffer(file.readframes(10**6), "<i2") / 32767
        assert file.getframerate() == 16000
    expected = speak(TEXT, lm, voice="bob").audio.clip(-1, 1)
    np.testing.assert_allclose(samples, expected, atol=2 / 32767, rtol=0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("A dog.", "lacks 'dog'"),
        ("Add 2.", "digit 2"),
        ("A cab & a bee.", "sign &"),
        ("Dr. Bee.", "abbreviation 'dr.'"),
        ("A c.a.b.", "abbreviation 'c.a'"),
        ("?!", "no word"),
        ("", "no word"),
    ],
)
def test_the_program_says_what_it_cannot_read(exported, text, message):
    with pytest.raises(ValueError, match=message):
        exported[1](exported[0]).speak(text)


def test_the_codec_of_the_folder_equals_ours_at_any_length(lm, exported):
    check_codec(lm.audio_tokenizer.codec, exported[0], [1, 5, 319, 320, 321, 639, 641, 7000, 16001, 40000])


def test_graphs_share_weights_and_name_no_path(lm, exported):
    files = {path.name: path.read_bytes() for path in exported[0].iterdir()}
    assert all(str(ROOT).encode() not in content for content in files.values())
    assert len(files["lm.data"]) < 1.1 * 4 * lm.model.num_parameters()
    assert len(files["prefill.onnx"]) + len(files["decode_step.onnx"]) < len(files["lm.data"])


def test_what_cannot_be_exported_is_refused(speech_lm, tiny_codec, tmp_path):
    from focallm.tasks.export.onnx import check_exportable, export_onnx

    with pytest.raises(ValueError, match="float32 or int8, found 'int4'"):
        export_onnx("mini", tmp_path, "int4")
    with pytest.raises(ValueError, match="reads continuous features"):
        check_exportable(speech_lm("se-features"))
    AudioTokenizer(tiny_codec("mimi")).save_pretrained(tmp_path / "mimi")
    with pytest.raises(ValueError, match="only FocalCodecs"):
        export_onnx(tmp_path / "mimi", tmp_path / "out")
    assert not (tmp_path / "out").exists()


# Slow: each export takes half a minute of a core.


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tiny_50hz", "tiny_25hz", "tiny_12_5hz", "tiny_50hz_causal"])
def test_codecs_with_wavlm(codec, name, tmp_path):
    model = codec(name)
    AudioTokenizer(model).save_pretrained(tmp_path / "codec")
    assert export(tmp_path / "codec", tmp_path / "out") is None
    check_codec(model, tmp_path / "out", [1, 5, 399, 400, 1279, 1280, 5000, 16001, 40000])
    if not model.is_causal:
        return
    ours = model.stream()
    streams = Streams(tmp_path / "out")
    for chunks in (1, 1, 2, 1, 7, 1, 1, 12, 3, 1):
        samples = noise(chunks * model.config.chunk_length)
        codes = ours.encode(torch.from_numpy(samples)[None])
        assert np.array_equal(streams.run("encoder", samples=samples), codes[0, 0])
        audio = ours.decode(codes)[0, 0].numpy()
        np.testing.assert_allclose(streams.run("decoder", codes=codes[0, 0].numpy()), audio, atol=1e-4, rtol=0)


@pytest.fixture(scope="module")
def mini(tmp_path_factory):
    """The folder of the exported model of the package, and the class of its program."""
    folder = tmp_path_factory.mktemp("mini") / "model"
    return folder, export("mini", folder)


@pytest.mark.slow
def test_mini_speaks_as_with_torch(mini):
    sentences = [
        "Good morning, everyone.",
        "I don't know what you're talking about, and neither does he.",
        "The old man sat quietly by the fire; his dog slept at his feet.",
    ]
    speaker = mini[1](mini[0])
    lm = SpeechLM.from_pretrained("mini")
    for sentence, voice in zip(sentences, (None, "joe", "bf_lily"), strict=True):
        expected = speak(sentence, lm, voice=voice)
        np.testing.assert_allclose(speaker.speak(sentence, voice), expected.audio, atol=1e-4, rtol=0)
    check_codec(lm.audio_tokenizer.codec, mini[0], [1, 320, 16001, 160000])


@pytest.mark.slow
def test_int8_is_smaller_and_speaks(tmp_path, mini):
    speaker = export("mini", tmp_path / "int8", "--dtype", "int8")(tmp_path / "int8")
    sizes = []
    for folder in (tmp_path / "int8", mini[0]):
        sizes.append(sum(path.stat().st_size for path in folder.iterdir()))
    assert sizes[0] < 0.5 * sizes[1]
    samples = speaker.speak("Good morning, everyone.")
    assert 16000 < len(samples) < 32000
    assert 0.01 < samples.std() < 0.3


@pytest.mark.slow
def test_the_page_speaks_in_chromium(mini, tmp_path):
    """Needs npm, chromium and chromedriver."""
    webdriver = pytest.importorskip("selenium.webdriver")
    for program in ("npm", "chromium", "chromedriver"):
        if shutil.which(program) is None:
            pytest.skip(f"there is no {program}")
    page = tmp_path / "page"
    shutil.copytree(ROOT / "docs" / "browser", page, ignore=shutil.ignore_patterns("node_modules", "model"))
    subprocess.run(["npm", "install", "--ignore-scripts"], cwd=page, check=True)
    (page / "model").symlink_to(mini[0])
    options = webdriver.ChromeOptions()
    for option in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage"):
        options.add_argument(option)
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(QuietHandler, directory=page))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
    try:
        browser.set_script_timeout(600)
        browser.get(f"http://127.0.0.1:{server.server_port}/")
        wait_for_status(browser, "Ready.")
        browser.find_element("css selector", "textarea").clear()
        browser.find_element("css selector", "textarea").send_keys("In 1999")
        browser.find_element("css selector", "button").click()
        wait_for_status(browser, "write numbers in words")
        codes, samples = browser.execute_async_script(
            """const [text, done] = arguments;
            async function measure() {
              const { Speaker } = await import(new URL("speak.js", location).href);
              const speaker = await Speaker.load("model/");
              const codes = await speaker.codes(text);
              return [codes, Array.from(await speaker.decode(codes))];
            }
            measure().then(done, (error) => done([String(error), []]));""",
            "Good morning, everyone.",
        )
    finally:
        browser.quit()
        server.shutdown()
    assert codes == codes_of(SpeechLM.from_pretrained("mini"), "Good morning, everyone.", "af_heart")
    np.testing.assert_allclose(samples, speak("Good morning, everyone.").audio, atol=1e-4, rtol=0)


def wait_for_status(browser, text):
    deadline = time.monotonic() + 600
    while text not in browser.find_element("id", "status").text:
        assert time.monotonic() < deadline, browser.find_element("id", "status").text
        time.sleep(0.2)


class QuietHandler(SimpleHTTPRequestHandler):
    extensions_map: ClassVar = SimpleHTTPRequestHandler.extensions_map | {".mjs": "text/javascript"}

    def log_message(self, *args):
        pass
