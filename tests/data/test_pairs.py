import numpy as np
from datasets import Dataset

from focallm.data.pairs import WithReferences


def corpus(speakers, lengths=None, **columns):
    lengths = lengths or [5 + i for i in range(len(speakers))]
    rows = [
        {"id": str(i), "codes": [i] * length, "text": f"text {i}", "speaker": speaker}
        for i, (speaker, length) in enumerate(zip(speakers, lengths, strict=True))
    ]
    made = Dataset.from_list(rows)
    for name, values in columns.items():
        made = made.add_column(name, values)
    return made.with_format("numpy")


def test_a_reference_is_another_utterance_of_the_same_speaker_cut_to_length():
    rows = corpus(["a", "b"] * 10)
    paired = WithReferences(rows, rows, most=4, whole=False, seed=0)
    assert len(paired) == 20
    for i in range(20):
        reference = set(np.asarray(paired[i]["reference_codes"]).tolist())
        assert len(paired[i]["reference_codes"]) == 4
        assert reference != {i}
        assert all(other % 2 == i % 2 for other in reference)


def test_whole_references_come_with_their_text():
    rows = corpus(["a"] * 6, [3, 3, 9, 9, 9, 9])
    paired = WithReferences(rows, rows, most=4, whole=True, seed=0)
    assert {str(paired[i]["reference_text"]) for i in range(6)} == {"text 0", "text 1"}
    assert all(len(paired[i]["reference_codes"]) == 3 for i in range(6))


def test_a_speaker_with_nothing_else_to_offer_is_left_out():
    rows = corpus(["a", "a", "b", None, None])
    paired = WithReferences(rows, rows, most=9, whole=False, seed=0)
    assert [str(paired[i]["id"]) for i in range(len(paired))] == ["0", "1"]


def test_copies_of_one_utterance_are_no_reference_for_each_other():
    rows = corpus(["a"] * 4, utterance=["x", "x", "x", "y"])
    paired = WithReferences(rows, rows, most=9, whole=False, seed=0, key="utterance")
    assert paired["speaker"] == ["a"] * 4
    assert [int(paired[i]["reference_codes"][0]) for i in range(3)] == [3, 3, 3]
    assert int(paired[3]["reference_codes"][0]) != 3


def test_the_choice_follows_from_the_id_and_the_seed():
    rows = corpus(["a"] * 50)

    def chosen(rows, seed):
        paired = WithReferences(rows, corpus(["a"] * 50), most=9, whole=False, seed=seed)
        return [int(paired[i]["reference_codes"][0]) for i in range(len(paired))]

    assert chosen(rows, 0) == chosen(rows, 0)
    assert chosen(rows, 0) != chosen(rows, 1)
    assert chosen(rows.select(range(40, 50)), 0) == chosen(rows, 0)[40:]
    assert len(set(chosen(rows, 0))) > 20
