"""Read Prometheus' text format, version 0.0.4, and refuse whatever bends it.

Source: prometheus.io/docs/instrumenting/exposition_formats and …/concepts/data_model, 2026-11.
"""

import math
import re
from collections import defaultdict

NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
LABEL = r'(?P<name>[a-zA-Z_][a-zA-Z0-9_]*)="(?P<value>(?:[^"\\\n]|\\["\\n])*)"'
SAMPLE = re.compile(rf"(?P<name>{NAME})(?:\{{(?P<labels>[^\n]*)\}})? (?P<value>[^ ]+)").fullmatch
HEAD = re.compile(rf"# (?P<kind>HELP|TYPE) (?P<name>{NAME}) (?P<text>\S[^\n]*)").fullmatch
VALUE = re.compile(r"[+-]?(?:\d+(?:\.\d+)?(?:[eE][+-]?\d+)?|Inf)|NaN").fullmatch
ESCAPED = {"\\\\": "\\", '\\"': '"', "\\n": "\n"}
SUFFIXES = {"histogram": ("_bucket", "_sum", "_count"), "counter": ("",), "gauge": ("",)}


class Metrics(dict):
    """The samples: name -> labels, as a frozenset of pairs -> value; `kinds` by family."""

    def __init__(self):
        super().__init__()
        self.kinds = {}

    def total(self, name, **labels):
        """Add up the samples of `name` that have all of `labels`."""
        wanted = labels.items()
        return sum(v for own, v in self.get(name, {}).items() if wanted <= dict(own).items())

    def values(self, name, label):
        """Give the values that a label of `name` has."""
        return {dict(own).get(label) for own in self.get(name, {})}


def parse(text):
    """Read an exposition; an AssertionError names the line that is wrong."""
    assert text.endswith("\n"), "the last line has no end"
    found, family, helped, order = Metrics(), None, None, []
    for line in text[:-1].split("\n"):
        if line.startswith("#"):
            head = HEAD(line)
            assert head, f"not a comment that is understood: {line}"
            if head["kind"] == "HELP":
                assert head["name"] not in found.kinds, f"twice: {line}"
                helped = head["name"]
                continue
            family, kind = head["name"], head["text"]
            assert family == helped, f"TYPE without its HELP: {line}"
            assert kind in SUFFIXES, f"an unknown type: {line}"
            assert kind != "counter" or family.endswith("_total"), f"a counter's name: {line}"
            found.kinds[family] = kind
            continue
        sample = SAMPLE(line)
        assert sample, f"not a sample: {line}"
        assert family is not None, f"a sample before its family: {line}"
        suffix = sample["name"].removeprefix(family)
        assert sample["name"].startswith(family), f"a sample among others' samples: {line}"
        assert suffix in SUFFIXES[found.kinds[family]], f"a sample of another family: {line}"
        labels = _labels(sample["labels"] or "", line)
        assert VALUE(sample["value"]), f"not a number: {line}"
        own = found.setdefault(sample["name"], {})
        assert labels not in own, f"twice: {line}"
        own[labels] = float(sample["value"])
        order.append((sample["name"], labels))
    _check_counters(found)
    _check_histograms(found, order)
    return found


def _labels(text, line):
    pairs, at = [], 0
    while at < len(text):
        label = re.compile(LABEL).match(text, at)
        assert label, f"labels: {line}"
        value = re.sub(r"\\.", lambda escape: ESCAPED[escape[0]], label["value"])
        pairs.append((label["name"], value))
        at = label.end()
        if at < len(text):
            assert text[at] == ",", f"labels: {line}"
            at += 1
            assert at < len(text), f"labels end with a comma: {line}"
    assert len(dict(pairs)) == len(pairs), f"a label twice: {line}"
    assert not any(name.startswith("__") for name, _ in pairs), f"a reserved label: {line}"
    return frozenset(pairs)


def _check_counters(found):
    for family, kind in found.kinds.items():
        if kind == "counter":
            assert all(value >= 0 for value in found[family].values()), family


def _check_histograms(found, order):
    """Each has all buckets up to +Inf in order, never falling, and a count equal to the last."""
    for family, kind in found.kinds.items():
        if kind != "histogram":
            continue
        groups = defaultdict(list)
        for name, labels in order:
            if name == f"{family}_bucket":
                le = dict(labels)["le"]
                rest = frozenset(pair for pair in labels if pair[0] != "le")
                groups[rest].append((float(le), found[name][labels]))
        assert groups, f"{family} has no buckets"
        for rest, buckets in groups.items():
            bounds, counts = zip(*buckets, strict=True)
            assert list(bounds) == sorted(set(bounds)), family
            assert bounds[-1] == math.inf, family
            assert list(counts) == sorted(counts), family
            assert found[f"{family}_count"][rest] == counts[-1], family
            assert rest in found[f"{family}_sum"], family
        assert set(found[f"{family}_count"]) == set(groups), family
