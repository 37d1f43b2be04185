"""The command line: `npt`, and `python -m app`, which is the same program.

    main.py        every command in one tree, and what becomes of errors
    exits.py       exit codes, and errors in words or as JSON
    options.py     options that many commands share
    output.py      what goes to stdout (results) and to stderr (everything else)

One file a command or group of commands. Modules are light: what takes long to import (torch, the worker
floor, pydantic) is imported when a command runs, and only by those that need it. Commands that speak to a server know
httpx alone.
"""
