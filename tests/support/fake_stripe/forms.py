"""The nested forms in which Stripe's v1 API takes its parameters."""

import re
from urllib.parse import parse_qsl


def decode(text):
    """Read `a[b][0][c]=d` into dicts, lists and strings."""
    tree = {}
    for name, value in parse_qsl(text, keep_blank_values=True, strict_parsing=bool(text)):
        head, *rest = re.findall(r"[^\[\]]+|(?<=\[)(?=\])", name)
        at = tree
        for key in [head, *rest][:-1]:
            at = at.setdefault(key or str(len(at)), {})
        last = [head, *rest][-1]
        at[last or str(len(at))] = value
    return _with_lists(tree)


def _with_lists(node):
    """Turn dicts whose keys count from 0 into lists."""
    if not isinstance(node, dict):
        return node
    values = {key: _with_lists(value) for key, value in node.items()}
    if values and list(values) == [str(at) for at in range(len(values))]:
        return list(values.values())
    return values
