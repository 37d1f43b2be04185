"""How to make the same classifier once more."""

from __future__ import annotations

import json

from npt_core.report.blocks import Block, Code, Facts, Fold, Section, Text
from npt_core.report.facts import mapping, text
from npt_core.report.measured import Measured
from npt_core.report.reproduce import commands

MAX_CONFIG_CHARS = 20_000


def again(found: Measured) -> Section:
    """Give the commands, versions, seeds and the whole config."""
    told, manifest = mapping(found.report, "reproduce"), found.manifest
    made = commands(found.report, found.base_url)
    blocks: list[Block] = []
    if made is None:
        blocks.append(Text("This report does not hold all that it takes to make the model again."))
    else:
        blocks += [
            Text(
                "Everything that was chosen on the way is filled in, so that there is nothing left to choose. On the "
                "same versions and the same kind of machine this gives the same probabilities, but for the last bits."
            ),
            Code("On this server", made["curl"]),
            Code("In Python", made["python"]),
        ]
    versions = mapping(told, "versions") or mapping(manifest, "versions")
    seeds = mapping(told, "seeds") or mapping(manifest, "seeds")
    backbone = mapping(found.report, "backbone") or mapping(manifest, "backbone")
    facts = [
        *((text(name).replace("_", " "), text(value)) for name, value in list(seeds.items())[:10]),
        ("Backbone", text(backbone, "name")),
        ("Its fingerprint", text(backbone, "fingerprint")),
        ("Precision", text(backbone, "precision")),
        ("Device", text(told, "device")),
        *((text(name), text(value)) for name, value in list(versions.items())[:20]),
    ]
    blocks.append(Facts(facts))
    config = mapping(found.report, "config")
    if config:
        written = json.dumps(config, indent=1, default=str)
        if len(written) <= MAX_CONFIG_CHARS:
            blocks.append(Fold("The whole config, with the schedule it led to", [Code("Config", written)]))
    return Section("again", "Make it again", blocks)
