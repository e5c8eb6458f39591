"""Models and tokenizers: loading, creating, adapting, prompting and saving them."""
