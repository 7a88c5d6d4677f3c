"""Changes to the source of a module, each tried in a process of its own.

Run as a program it reads, as JSON, what to try, and prints what became of each. The parent imports
nothing of the server, so that each child reads the source as its mutant has it.
"""

import json
import os
import sys
from contextlib import redirect_stderr, redirect_stdout
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import PathFinder, SourceFileLoader
from pathlib import Path

AT_ONCE = 2
QUIETLY = ("-W", "ignore::pytest.PytestAssertRewriteWarning")  # Hypothesis is there already


class Mutated(SourceFileLoader):
    """Loads a module with one text in it replaced by another."""

    def __init__(self, name, path, old, new):
        super().__init__(name, path)
        self.old, self.new = old, new

    def get_code(self, fullname):
        source = Path(self.path).read_text()
        assert source.count(self.old) == 1, f"{fullname} has not once {self.old!r}"
        return compile(source.replace(self.old, self.new), self.path, "exec")


class Mutation(MetaPathFinder):
    """Finds the one module that is changed."""

    def __init__(self, module, old, new):
        self.module, self.old, self.new = module, old, new

    def find_spec(self, fullname, path, target=None):
        if fullname != self.module:
            return None
        spec = PathFinder.find_spec(fullname, path)
        spec.loader = Mutated(fullname, spec.origin, self.old, self.new)
        return spec


def attempt(task, mutant):
    """Let the check run on the mutant; "" where that finds nothing wrong."""
    if mutant["module"]:
        sys.meta_path.insert(0, Mutation(mutant["module"], mutant["old"], mutant["new"]))
        import_module(mutant["module"])
    if mutant["check"]:
        import pytest

        code = pytest.main(["-q", "-p", "no:cacheprovider", *QUIETLY, mutant["check"]])
        if code not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
            return f"not tried: {mutant['check']} ended with {code!r}"
        return "" if code == pytest.ExitCode.OK else mutant["check"]
    from hypothesis import Phase
    from support.money_machine import exercise

    try:
        exercise(
            Path(task["template"]),
            examples=mutant["examples"],
            steps=task["steps"],
            derandomize=True,
            phases=[Phase.generate],
        )
    except Exception as found:  # noqa: BLE001 - a mutant may fail in any way
        return f"{type(found).__name__}: {found}"
    return ""


def fork(task, mutant):
    """Try a mutant in a child; give its process and what it will write to."""
    reading, writing = os.pipe()
    process = os.fork()
    if process:
        os.close(writing)
        return process, reading
    found = "not tried: it ended early"
    try:
        with Path(os.devnull).open("w") as null, redirect_stdout(null), redirect_stderr(null):
            found = attempt(task, mutant)
    except Exception as broken:  # noqa: BLE001 - the parent tells of it
        found = f"not tried: {broken!r}"
    finally:  # whatever happened, a child must not go on as if it were the parent
        os.write(writing, found.encode()[:4000])
        os._exit(0)


def main():
    task = json.load(sys.stdin)
    import hypothesis.stateful  # noqa: F401 - once, for all children
    import msgspec  # noqa: F401
    import peewee  # noqa: F401
    import pytest  # noqa: F401

    found, running = {}, {}
    waiting = dict(enumerate(task["mutants"]))
    while waiting or running:
        while waiting and len(running) < AT_ONCE:
            number = min(waiting)
            running[number] = fork(task, waiting.pop(number))
        number = min(running)
        process, reading = running.pop(number)
        with os.fdopen(reading, "rb") as pipe:
            found[number] = pipe.read().decode(errors="replace")
        os.waitpid(process, 0)
    assert not any(name.partition(".")[0] == "server" for name in sys.modules)
    json.dump([found[number] for number in sorted(found)], sys.stdout)


if __name__ == "__main__":
    main()
