"""Episodes: a model's turns in an environment, played token by token, and their records."""
