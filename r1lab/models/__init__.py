"""Models and tokenizers: found, loaded, made, adapted, asked and saved."""
