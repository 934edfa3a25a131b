"""The card of a folder: what is in it."""

from pathlib import Path

from ..tokenizer.files import write_whole


def write_card(folder: Path, facts: dict[str, str]) -> None:
    """A README.md for the hub, unless there is one: its owner may have written into it."""
    if (folder / "README.md").exists():
        return
    rows = "\n".join(f"| {name} | {value} |" for name, value in facts.items())
    card = (
        f"---\nlibrary_name: focallm\nlicense: unknown\ntags: [speech, audio]\n---\n\n# A speech language model\n\n"
        f"| | |\n|---|---|\n{rows}\n\nIt opens with `focallm.lm.SpeechLM.from_pretrained(folder)`.\n\n"
        "Before publishing, state above the licences of the codec, of the base model and of the recordings it learnt "
        "from, and here what was measured.\n"
    )
    write_whole(folder / "README.md", card.encode())
