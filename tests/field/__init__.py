"""Field proof: releases of the catalog rebuilt from real weights, by whoever has them, and a receipt to send back.

    WEIGHTKIT_LLAMA=/where/LLaMA/is python -m tests.field [NAME...] [--downloads DIR] [--fetch] [--out receipt.json]

``/where/LLaMA/is`` has Meta's folders as they came: ``7B``, ``13B``, ``30B``, ``65B``, and ``tokenizer.model`` beside them.
Downloads lie in folders called like their entries (``weightkit releases`` lists them); with ``--fetch`` what is missing is
fetched by name. What is run are the commands that ``weightkit releases NAME`` shows. ``docs/field.md`` has what came back.
"""
