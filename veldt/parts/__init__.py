"""The four parts: actor, learner, evaluator, parameters."""
