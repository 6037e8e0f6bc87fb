"""From logits to tokens: what may be drawn, races between tokens, and what is told of them."""
