"""Networks: encoders of observations, recurrent cores, heads."""
