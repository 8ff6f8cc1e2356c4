"""Print the catalogue as Markdown: each pair's story and guide, from the docstrings beside the code."""

import inspect
import sys

import ppvae
from ppvae.catalogue import maker

print(
    "# The catalogue\n\nOne guide is one pair; `ppvae.make(name, features, latents, …)` builds it. Printed by `make docs`."
)
for name in ppvae.names():
    module = maker(name)
    story = sys.modules[module.make(16, 2)._functions["model"].__module__]
    print(f"\n## {name}\n\n`make{inspect.signature(module.make)}`\n\n{inspect.getdoc(module.make)}")
    for title, part in (("Story", story), ("Guide", module)):
        print(f"\n### {title} (`{part.__name__}`)\n\n{inspect.cleandoc(part.__doc__)}")
