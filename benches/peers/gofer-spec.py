"""Prints the pipeline for Gofer, as JSON."""
import json, os, sys

chain, tasks = sys.argv[1] == "chain", int(os.environ["tasks"])


def task(i):
    after = [{"task": f"t{i - 1}", "condition": "DEPENDENCY_CONDITION_SUCCESS"}] if chain and i else []
    return {"id": f"t{i}", "custom": {"command": ["true"]}, "dependsOn": after}


print(json.dumps({"name": sys.argv[1], "tasks": [task(i) for i in range(tasks)]}))
