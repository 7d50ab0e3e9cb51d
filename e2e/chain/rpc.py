#!/usr/bin/env python3
"""Calls the chain at ETH_RPC_URL and prints the result.

    rpc.py METHOD [PARAMETER...]

Each parameter is JSON, or else a word. Needs only Python's standard library.
"""

import json
import os
import sys
import urllib.request


def value(text: str) -> object:
    """Reads a parameter."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def main() -> None:
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    call = {"jsonrpc": "2.0", "id": 1, "method": sys.argv[1], "params": [value(a) for a in sys.argv[2:]]}
    request = urllib.request.Request(
        os.environ["ETH_RPC_URL"], json.dumps(call).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=10) as response:
        answer = json.load(response)
    if "error" in answer:
        sys.exit(f"{sys.argv[1]}: {answer['error'].get('message', answer['error'])}")
    result = answer.get("result")
    print(result if isinstance(result, str) else json.dumps(result))


if __name__ == "__main__":
    main()
