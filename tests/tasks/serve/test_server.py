"""The routes, in an application of this process: answers, errors and limits."""

import asyncio
import base64
import io
import json
import re
import struct

import numpy as np
import pytest
import soundfile
from starlette.testclient import WebSocketDenialResponse

from focallm.tasks.serve.errors import ApiError
from focallm.tasks.serve.limits import Places
from focallm.tasks.serve.service import Limits
from focallm.tasks.serve.speech_session import split_sentences

from .conftest import TEXT

SPEECH = "/v1/audio/speech"
TRANSFORM = "/audio/transformations"


def speech(client, expected=200, **fields):
    response = client.post(SPEECH, json={"model": "tiny", "input": "ann", "response_format": "wav", **fields})
    assert response.status_code == expected, response.text[:500]
    return response


def error_of(response):
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert "/root" not in response.text
    assert "Traceback" not in response.text
    return error


def read(content):
    return soundfile.read(io.BytesIO(content))


def test_speech_is_audio_of_the_codec(client):
    response = speech(client, voice="bob", seed=1)
    wave, rate = read(response.content)
    assert rate == 16000
    assert len(wave) > 1600
    assert response.headers["content-type"] == "audio/wav"
    assert re.fullmatch("[0-9a-f]{32}", response.headers["x-request-id"])
    assert speech(client, voice={"id": "bob"}, seed=1).content == response.content
    assert speech(client, voice="bob", seed=2).content != response.content


def test_events_carry_the_same_audio_and_the_usage(client):
    lines = [line for line in speech(client, stream_format="sse").text.split("\n\n") if line]
    events = [json.loads(line.removeprefix("data: ")) for line in lines]
    *deltas, done = events
    assert {event["type"] for event in deltas} == {"speech.audio.delta"}
    audio = b"".join(base64.b64decode(event["audio"]) for event in deltas)
    assert audio == speech(client).content
    assert done["type"] == "speech.audio.done"
    usage = done["usage"]
    assert usage["input_tokens"] == 3  # characters
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]
    assert usage["output_tokens"] * 320 == len(read(audio)[0])


@pytest.mark.parametrize(
    ("fields", "status", "param"),
    [
        ({"model": "tts-1"}, 404, "model"),
        ({"voice": "alloy"}, 400, "voice"),
        ({"voice": {"id": "../ann"}}, 400, "voice"),
        ({"voice": {"name": "ann"}}, 400, "voice"),
        ({"voice": 3}, 400, "voice"),
        ({"input": ""}, 400, "input"),
        ({"input": " \n"}, 400, "input"),
        ({"input": "你好"}, 400, "input"),
        ({"input": "a" * 4097}, 400, "input"),
        ({"input": ["ann"]}, 400, "input"),
        ({"response_format": "aac"}, 400, "response_format"),
        ({"speed": 0.4}, 400, "speed"),
        ({"speed": 1.5}, 400, "speed"),  # this model is not aligned
        ({"speed": "1"}, 400, "speed"),
        ({"speed": True}, 400, "speed"),
        ({"stream_format": "xml"}, 400, "stream_format"),
        ({"instructions": "sing"}, 400, "instructions"),
        ({"timestamp_granularities": ["word"]}, 400, "timestamp_granularities"),
        ({"timestamp_granularities": ["word"], "stream_format": "sse"}, 400, "timestamp_granularities"),
        ({"seed": -1}, 400, "seed"),
        ({"sped": 1}, 400, "sped"),
    ],
)
def test_a_wrong_field_is_named(client, fields, status, param):
    error = error_of(speech(client, status, **fields))
    assert error["param"].startswith(param)
    assert error["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"[" * 100_000,
        b'{"model": "tiny", "input": "ann", "speed": NaN}',
        b'{"model": "tiny", "input": "ann", "speed": 1e999}',
        b'{"model": "tiny", "input": "\\ud800"}',
        b'{"model": "\\ud800", "input": "ann"}',
        b'{"\\ud800": 1}',
        b'{"model": "tiny", "input": "\xff"}',
        b'{"model": "tiny", "input": "ann", "seed": ' + b"9" * 5000 + b"}",
    ],
)
def test_malformed_json_is_refused(client, body):
    response = client.post(SPEECH, content=body, headers={"content-type": "application/json"})
    assert response.status_code == (404 if b'"model": "\\ud800"' in body else 400)
    error_of(response)


def test_unknown_models_are_answered_with_the_names_that_exist(client):
    error = error_of(speech(client, 404, model="tts-1"))
    assert "tiny" in error["message"]
    assert error["code"] == "model_not_found"
    assert error_of(client.get("/v1/models/tts-1"))["code"] == "model_not_found"
    (model,) = client.get("/v1/models").json()["data"]
    assert model == client.get("/v1/models/tiny").json()
    assert model["tasks"] == ["speech", "transcription", "enhance", "separate", "convert"]


@pytest.mark.parametrize(
    ("path", "content_type"),
    [
        (SPEECH, "text/plain"),
        (SPEECH, "multipart/form-data; boundary=x"),
        (TRANSFORM, "application/json"),
        (SPEECH, ""),
    ],
)
def test_bodies_of_another_type_are_refused(client, path, content_type):
    response = client.post(path, content=b"{}", headers={"content-type": content_type})
    assert response.status_code == 415
    error_of(response)


def test_other_paths_and_methods_are_refused(client):
    for method, path, status in (
        ("GET", "/nothing", 404),
        ("GET", "/v1/audio/speech/../../../etc/passwd", 404),
        ("GET", SPEECH, 405),
        ("HEAD", SPEECH, 405),
        ("OPTIONS", SPEECH, 405),
        ("PUT", "/v1/models", 405),
    ):
        response = client.request(method, path)
        assert response.status_code == status
        if method != "HEAD":
            error_of(response)
        assert status == 404 or response.headers["allow"] == ("POST" if path == SPEECH else "GET")
    assert client.head("/health").status_code == 200


def test_a_key_is_needed_if_the_server_has_one(make_client):
    client = make_client(api_key="sësame")
    for headers in ({}, {"Authorization": "Bearer other"}, {"Authorization": "Bearer "}, {"Authorization": "sesame"}):
        response = client.get("/v1/models", headers=headers)
        assert response.status_code == 401
        assert error_of(response)["code"] == "invalid_api_key"
    assert client.get("/metrics").status_code == 401
    assert client.get("/health").json() == {"status": "ok", "running": 0, "waiting": 0}
    key = "Bearer sësame".encode()
    assert client.get("/v1/models", headers={"Authorization": key}).status_code == 200


def test_pages_of_other_sites_are_refused(client):
    assert client.get("/v1/models", headers={"Origin": "http://evil.example"}).status_code == 403
    assert client.get("/v1/models", headers={"Origin": "http://testserver"}).status_code == 200


def test_large_bodies_are_refused(make_client):
    client = make_client(limits=Limits(max_upload_mb=0.001))
    assert error_of(speech(client, 413, input="a" * 2000))["code"] == "body_too_large"

    def chunks():  # without a Content-Length
        for _ in range(20):
            yield b" " * 100

    response = client.post(SPEECH, content=chunks(), headers={"content-type": "application/json"})
    assert response.status_code == 413
    error_of(response)


def test_a_batch_answers_each_text_by_itself(client):
    items = [{"input": "ann"}, {"input": "bob", "voice": "bob"}, {"input": "你好"}, {"input": "ann", "voice": "alloy"}]
    body = {"model": "tiny", "response_format": "wav", "items": items}
    answer = client.post(f"{SPEECH}/batch", json=body).json()
    assert [result["status"] for result in answer["results"]] == ["success", "success", "error", "error"]
    assert (answer["total"], answer["succeeded"], answer["failed"]) == (4, 2, 2)
    first, _, unspoken, nobody = answer["results"]
    assert np.array_equal(read(base64.b64decode(first["audio_data"]))[0], read(speech(client).content)[0])
    assert (unspoken["error"]["param"], nobody["error"]["param"]) == ("input", "voice")
    assert client.post(f"{SPEECH}/batch", json={**body, "items": items * 9}).status_code == 400
    assert client.post(f"{SPEECH}/batch", json={**body, "items": []}).status_code == 400
    assert client.post(f"{SPEECH}/batch", json={**body, "model": "tts-1"}).status_code == 404


def test_more_requests_than_may_wait_are_told_when_to_come_back(make_client):
    client = make_client(limits=Limits(max_running=1, max_waiting=1))
    body = {"model": "tiny", "items": [{"input": TEXT}] * 3}
    response = client.post(f"{SPEECH}/batch", json=body)
    assert response.status_code == 429
    assert int(response.headers["retry-after"]) >= 1
    assert error_of(response)["type"] == "rate_limit_error"


def test_places_are_taken_in_turn_and_given_back():
    async def take_all() -> list[int]:
        places = Places(1, 1)
        order = []

        async def use(number: int) -> None:
            await places.acquire(60)
            order.append(number)
            await asyncio.sleep(0)
            places.release(1.0)

        await asyncio.gather(use(1), use(2))
        assert (places.running, places.waiting) == (0, 0)
        await places.acquire(60)
        waiting = asyncio.create_task(use(3))
        await asyncio.sleep(0)
        with pytest.raises(ApiError, match="1 requests run and 1 wait"):
            await use(4)
        # One that goes away while it waits makes room, and so does one that waits too long.
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        with pytest.raises(ApiError, match="took more than"):
            await places.acquire(0.001)
        places.check_room()
        assert (places.running, places.waiting) == (1, 0)
        return order

    assert asyncio.run(take_all()) == [1, 2]


def test_requests_that_take_too_long_are_ended(make_client):
    client = make_client(limits=Limits(timeout_s=1e-6))
    assert error_of(speech(client, 503))["code"] == "timeout"
    assert client.get("/health").json()["running"] == 0


def test_voices_are_uploaded_used_and_deleted(client, recording):
    form = {"name": "eve", "consent": "I am Eve, and I agree."}
    files = {"audio_sample": ("eve.wav", recording)}
    created = client.post("/v1/audio/voices", data=form, files=files)
    assert created.status_code == 200, created.text
    assert created.json()["object"] == "audio.voice"
    assert "agree" not in client.get("/v1/audio/voices").text  # the statement is for the owner of the server
    names = [voice["id"] for voice in client.get("/v1/audio/voices").json()["data"]]
    assert names == ["ann", "bob", "eve"]
    assert client.post("/v1/audio/voices", data=form, files=files).status_code == 400
    # This model needs a transcript, which a voice does not have.
    assert "cannot speak in the voice" in error_of(speech(client, 400, voice="eve"))["message"]
    assert client.delete("/v1/audio/voices/eve").json()["deleted"]
    assert client.delete("/v1/audio/voices/eve").status_code == 404


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"name": "../eve"}, "name"),
        ({"name": "ann"}, "name"),
        ({"name": "eve\r\nX-Header: 1"}, "name"),
        ({"consent": ""}, "consent"),
        ({"consent": None}, "consent"),
        ({"mood": "good"}, "mood"),
    ],
)
def test_a_voice_with_a_wrong_field_is_refused(client, recording, changes, param):
    form = {"name": "eve", "consent": "I agree.", **changes}
    files = {"audio_sample": ("eve.wav", recording)}
    response = client.post("/v1/audio/voices", data={k: v for k, v in form.items() if v is not None}, files=files)
    assert response.status_code == 400
    assert error_of(response)["param"] == param
    assert client.post("/v1/audio/voices", data=form, files={"audio_sample": b"noise"}).status_code == 400


def test_recordings_are_transcribed(client, recording):
    files = {"file": ("a.wav", recording)}
    answer = client.post("/v1/audio/transcriptions", data={"model": "tiny"}, files=files).json()
    assert answer["usage"] == {"type": "duration", "seconds": 0.5}
    form = {"model": "tiny", "response_format": "text"}
    assert client.post("/v1/audio/transcriptions", data=form, files=files).text == answer["text"]


def transform(client, recording, expected=200, **fields):
    reference = fields.pop("reference", None)
    files = {"audio": ("a.wav", recording), **({"reference": ("b.wav", reference)} if reference else {})}
    form = {"model": "tiny", **{key.replace("__", "[") + "]" * ("__" in key): value for key, value in fields.items()}}
    response = client.post(TRANSFORM, data=form, files=files)
    assert response.status_code == expected, response.text
    return response


def test_recordings_are_enhanced_separated_and_converted(client, recording):
    wave, rate = read(transform(client, recording).content)
    assert (len(wave), rate) == (8000, 16000)
    wave, rate = read(transform(client, recording, params__task="separate", response_format="flac").content)
    assert wave.shape == (8000, 2)
    answer = transform(client, recording, reference=recording * 1, sample_rate="24000", response_format="ogg")
    wave, rate = read(answer.content)
    assert (len(wave), rate) == (12000, 24000)
    assert "x-focallm-warning" not in answer.headers


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"params__task": "sing"}, "params[task]"),
        ({"params__task": "convert"}, "reference"),
        ({"params__dry": "nan"}, None),
        ({"params__dry": "a"}, "params[dry]"),
        ({"params__seed": "9" * 5000}, "params[seed]"),
        ({"params__loud": "1"}, "params[loud]"),
        ({"params__task": "separate", "params__num_speakers": "99"}, "params[num_speakers]"),
        ({"params__temperature": "nan"}, "params[temperature]"),
        ({"response_format": "aac"}, "response_format"),
    ],
)
def test_a_transformation_with_a_wrong_field_is_refused(client, recording, fields, param):
    assert error_of(transform(client, recording, 400, **fields))["param"] == param


def test_measured_harm_is_told_in_a_header(make_client, recording):
    client = make_client(source="mini-rewriting")
    warning = transform(client, recording).headers["x-focallm-warning"]
    assert re.match(r"measured: .* word error rate rises from", warning)


def test_long_recordings_are_refused_before_they_are_decoded(make_client):
    client = make_client(limits=Limits(max_recording_s=10))
    content = io.BytesIO()
    soundfile.write(content, np.zeros(16000 * 3600, np.int16), 16000, format="FLAC")
    assert len(content.getvalue()) < 1 << 20
    assert error_of(transform(client, content.getvalue(), 413))["code"] == "audio_too_long"


def test_metrics_count_requests_and_sound(make_client):
    client = make_client()
    speech(client)
    speech(client, 400, voice="alloy")
    client.get("/secret/path")
    text = client.get("/metrics").text
    assert f'focallm_requests_total{{path="{SPEECH}",status="200"}} 1.0' in text
    assert f'focallm_requests_total{{path="{SPEECH}",status="400"}} 1.0' in text
    assert "secret" not in text
    assert "focallm_time_to_first_audio_seconds_count 1.0" in text
    assert float(re.search(r"^focallm_audio_seconds_total (\S+)", text, re.MULTILINE)[1]) > 0


def session(client, *messages):
    """Answers to some messages, until the session ends: lists of JSON and bytes."""
    with client.websocket_connect(f"{SPEECH}/stream") as websocket:
        for message in messages:
            websocket.send_text(message if isinstance(message, str) else json.dumps(message))
        events = []
        while True:
            event = websocket.receive()
            if event["type"] == "websocket.close":
                return events, event["code"]
            events.append(json.loads(event["text"]) if event.get("text") else event["bytes"])


def test_a_session_speaks_each_sentence_as_soon_as_it_is_whole(client):
    config = {"type": "session.config", "model": "tiny", "response_format": "wav"}
    texts = [{"type": "input.text", "text": part} for part in ("a", "nn. bo", "b! an", " on")]
    events, code = session(client, config, *texts, {"type": "input.done"})
    assert code == 1000
    starts = [event for event in events if isinstance(event, dict) and event["type"] == "audio.start"]
    assert [event["sentence_text"] for event in starts] == ["ann.", "bob!", "an on"]
    assert [event["sentence_index"] for event in starts] == [0, 1, 2]
    first = events[1 : events.index(next(e for e in events if isinstance(e, dict) and e["type"] == "audio.done"))]
    assert b"".join(first) == speech(client, input="ann.").content
    assert events[len(first) + 1]["total_bytes"] == sum(map(len, first))
    assert events[-1] == {"type": "session.done", "total_sentences": 3}


def test_a_sentence_that_cannot_be_spoken_does_not_end_the_session(client):
    config = {"type": "session.config", "model": "tiny"}
    events, code = session(client, config, {"type": "input.text", "text": "你好. ann."}, {"type": "input.done"})
    kinds = [event["type"] for event in events if isinstance(event, dict)]
    assert kinds == ["audio.start", "error", "audio.done", "audio.start", "audio.done", "session.done"]
    assert code == 1000


@pytest.mark.parametrize(
    "messages",
    [
        ["{"],
        ["[" * 100_000],
        ['{"type": "input.text", "text": "ann"}'],
        [{"type": "session.config", "model": "tts-1"}],
        [{"type": "session.config", "model": "tiny", "speed": 9}],
        [{"type": "session.config", "model": "tiny"}, {"type": "input.text", "text": 3}],
        [{"type": "session.config", "model": "tiny"}, {"type": "input.text"}],
        [{"type": "session.config", "model": "tiny"}, '{"type": "input.text", "text": "\\ud800"}'],
        [{"type": "session.config", "model": "tiny"}, {"type": "input.text", "text": "a" * 5000}],
    ],
)
def test_a_wrong_message_ends_a_session_with_its_reason(client, messages):
    events, code = session(client, *messages)
    assert code == 1008
    assert events[-1]["type"] == "error"
    assert events[-1]["error"]["message"]


def test_sessions_need_the_key_and_the_same_site(make_client):
    client = make_client(api_key="sesame")
    key = {"Authorization": "Bearer sesame"}
    for headers, status in (({}, 401), ({**key, "Origin": "http://evil.example"}, 403)):
        with (
            pytest.raises(WebSocketDenialResponse) as refused,
            client.websocket_connect(f"{SPEECH}/stream", headers=headers),
        ):
            pass
        assert refused.value.status_code == status
    with client.websocket_connect(f"{SPEECH}/stream", headers=key):
        pass


@pytest.mark.parametrize(
    ("text", "sentences", "rest"),
    [
        ("One. Two", ["One."], "Two"),
        ("Dr. Who has 3.5 apples", [], "Dr. Who has 3.5 apples"),
        ("Mr. A. B. said: 'Go!' Yes", ["Mr. A. B. said: 'Go!'"], "Yes"),
        ("What?! No… Yes.", ["What?!", "No…"], "Yes."),
        ("Title\n\nText", ["Title"], "Text"),
        ("", [], ""),
    ],
)
def test_sentences_end_where_they_end(text, sentences, rest):
    assert split_sentences(text) == (sentences, rest)


def test_wav_headers_of_streams_say_that_the_length_is_unknown(client):
    assert struct.unpack("<I", speech(client).content[40:44])[0] == 0xFFFFFFFF
