"""Finds the files that a sentence asks to create."""

import re
from dataclasses import dataclass

_UNSAID = "Created by the demo upstream.\n"
_CREATES = re.compile(r"\b(?:creat|writ|mak|add|generat|sav|put|touch|stor|produc)", re.IGNORECASE)
_NAME = re.compile(
    r"(?:(?:called|named)\s+[`\"'](?P<quoted>[^`\"'\n]+)[`\"'])"
    r"|[`\"']?(?<![\w/.~-])(?P<plain>[~\w./-]*\w\.[A-Za-z]\w{0,9})\b[`\"']?"
    r"|(?:\bfile\s+(?:called|named)\s+(?P<bare>[\w./-]+\w))",
    re.IGNORECASE,
)
_QUOTED = (
    r"```[\w+-]*\n(?P<fenced>.*?)```|\"(?P<double>[^\"]*)\"|'(?P<single>[^'\n]*)'|`(?P<tick>[^`]*)`"
)
_END = (
    r"(?=\s*[.!?;]?\s*$|\s*[.!?;,]?\s*\n|[.!?;]\s"
    r"|,?\s+(?:and|then)\s+(?:then\s+)?(?:a|another|create|write|make|add|read|show|list|check"
    r"|verify|tell|print|report|run|the|\S*\w\.[a-z]\w*)\b|,\s+then\b)"
)
_FILLER = (
    r"\s*(?:(?:exactly|only|just)\b\s*)*"
    r"(?:(?:the|a)\s+(?:exact\s+|single\s+|following\s+|one\s+)?"
    r"(?:text|line|words?|contents?|string|message)\b)?(?:contents?\b|text\b)?\s*(?:of\b|is\b)?[\s:]*"
)
_AFTER = re.compile(
    r"[\s,:()-]*(?:file\b)?[\s,:(-]*"
    r"(?:that\s+|which\s+|whose\s+)?(?:should\s+)?(?:contain(?:ing|s)?|with|says?|saying|reads?"
    r"|consisting\s+of|contents?\s+(?:is|are)|and\s+write|holding|holds)\b"
    rf"{_FILLER}(?:{_QUOTED}|(?P<free>\S.*?){_END})",
    re.IGNORECASE | re.DOTALL,
)
_BEFORE = re.compile(
    rf"(?:write|put|save|store)\s+{_FILLER}(?:{_QUOTED}|(?P<free>\S.*?))"
    r"\s+(?:to|into|in)\s+(?:(?:a|the)\s+)?(?:new\s+)?(?:file\s+)?(?:called\s+|named\s+)?$",
    re.IGNORECASE | re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class File:
    """A file to create, as the prompt names it."""

    name: str
    content: str


def files_in(asked: str) -> list[File]:
    """List the files that `asked` wants created, in order; at most three.

    Understands "create a file hello.txt containing hi", "write hi to hello.txt", quoted and
    fenced contents, and several files one after the other.
    """
    found: dict[str, File] = {}
    at, creating = 0, False
    while (match := _NAME.search(asked, at)) and len(found) < 3:
        before = asked[at : match.start()]
        joined = creating and re.fullmatch(
            r"[\s,]*(?:and)?(?:\s+an?(?:other)?)?[\s,]*(?:file)?[\s`\"']*", before
        )
        creating = bool(_CREATES.search(before) or joined)
        name = match["quoted"] or match["plain"] or match["bare"]
        at = match.end()
        if not creating or name in found:
            continue
        after = _AFTER.match(asked, at)
        content = _content(after) or _content(_BEFORE.search(before))
        found[name] = File(name, _UNSAID if content is None else content)
        at = after.end() if after else at
    if not found and re.search(
        r"\b(?:create|write|make)\s+(?:me\s+)?an?\s+(?:new\s+)?file\b", asked, re.IGNORECASE
    ):
        return [File("demo.txt", _UNSAID)]
    return list(found.values())


def _content(match: re.Match[str] | None) -> str | None:
    if match is None:
        return None
    kinds = ("fenced", "double", "single", "tick", "free")
    return next((match[kind] for kind in kinds if match[kind] is not None), None)
