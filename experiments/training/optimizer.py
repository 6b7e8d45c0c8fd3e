"""Adam, its rate and its clipping, as a config describes them."""

import optax

from experiments.config.schema import Optimizer


def learning_rate(config: Optimizer) -> optax.Schedule:
    """Returns the rate by step: a linear rise, then the fall of a cosine."""
    steps = max(config.steps, 1)
    rise = min(round(config.warmup * steps), steps - 1)
    return optax.warmup_cosine_decay_schedule(
        init_value=0.0 if rise else config.learning_rate,
        peak_value=config.learning_rate,
        warmup_steps=rise,
        decay_steps=steps,
        end_value=config.learning_rate * config.final_rate,
    )


def make_optimizer(config: Optimizer) -> optax.GradientTransformation:
    """Returns clipping by global norm, followed by Adam."""
    return optax.chain(
        optax.clip_by_global_norm(config.clip),
        optax.adam(learning_rate(config), b2=config.b2),
    )
