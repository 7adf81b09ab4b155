"""Learn a task on a backbone: recipe, data, loop, evaluation."""
