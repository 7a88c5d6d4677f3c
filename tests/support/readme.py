"""README.md as tests read it: its code blocks, by language."""

import re
from dataclasses import dataclass
from pathlib import Path

import yaml

from server.config.load import example_text

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


@dataclass(frozen=True)
class Block:
    """One code block, and the line of README.md that it begins at."""

    language: str
    text: str
    line: int

    @property
    def file(self) -> str | None:
        """The file that the block's first line names in a comment."""
        named = re.match(r"# (\S+\.yaml)\n", self.text)
        return named[1] if named else None


def blocks(language: str) -> list[Block]:
    """Give all code blocks in `language`, in order."""
    found = re.finditer(r"(?ms)^```(\w+)\n(.*?)^```$", TEXT)
    return [
        Block(each[1], each[2], TEXT.count("\n", 0, each.start()) + 2)
        for each in found
        if each[1] == language
    ]


def parameters(language: str) -> dict[str, object]:
    """Give the arguments of `parametrize` for all blocks in `language`."""
    found = blocks(language)
    return {"argvalues": found, "ids": [f"line {block.line}" for block in found]}


def whole_config(block: Block) -> str:
    """Put a block's sections into the example config, as a reader of the README would."""
    return yaml.safe_dump(yaml.safe_load(example_text()) | yaml.safe_load(block.text))
