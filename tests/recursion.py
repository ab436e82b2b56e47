#!/usr/bin/env python3
"""Nothing but the template interpreter, which counts its depth, calls itself: no file, vocabulary, checkpoint or text
can exhaust the stack. Cycles in gcc's call graph of llm.h and the converter; calls through pointers lead to kernels,
to a source's reader or to the host."""
import os
import re

from toolchain import BUILD, Report, have, run

UNITS = {"llm": "#define LLM_IMPLEMENTATION\n#include \"../../llm.h\"\n",
         "convert": "#include \"../../tools/convert/convert.c\"\n",
         "inspect": "#include \"../../tools/convert/inspect.c\"\n"}
COUNTED = "llm__tpl_" # bounded depth, see LLM_ERROR_LIMIT there
EDGE = re.compile(r'edge: \{ sourcename: "([^"]+)" targetname: "([^"]+)"')


def call_graph(path):
    """{function: functions that it calls}"""
    calls = {}
    with open(path, encoding="utf-8") as file:
        for line in file:
            found = EDGE.match(line)
            if found:
                caller, callee = (name.split(":")[-1] for name in found.groups())
                calls.setdefault(caller, set()).add(callee)
    return calls


def recursive(calls):
    """Functions that can come back to themselves."""
    found = set()
    for start in calls:
        seen, left = set(), list(calls[start])
        while left:
            name = left.pop()
            if name not in seen:
                seen.add(name)
                left += calls.get(name, ())
        if start in seen:
            found.add(start)
    return found


def main():
    report = Report("recursion")
    for unit in UNITS if have(["gcc"], report) else []:
        source, graph = os.path.join(BUILD, f"calls-{unit}.c"), os.path.join(BUILD, f"calls-{unit}.ci")
        with open(source, "w", encoding="ascii") as file:
            file.write(UNITS[unit])
        status, output = run(["gcc", "-std=c11", "-w", "-O0", "-fcallgraph-info", "-c", source, "-o",
                              graph[:-3] + ".o"])
        if not report.check(status == 0 and os.path.exists(graph), f"{unit}: no call graph\n{output[:1000]}"):
            continue
        calls = call_graph(graph)
        report.check(len(calls) > 300, f"{unit}: only {len(calls)} functions")
        found = recursive(calls)
        report.check(any(name.startswith(COUNTED) for name in found), f"{unit}: not even the template interpreter")
        others = sorted(name for name in found if not name.startswith(COUNTED))
        report.check(not others, f"{unit}: {', '.join(others)}")
    report.end()


if __name__ == "__main__":
    main()
