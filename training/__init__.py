"""How the demo model was made: data generators, a small PyTorch twin of the model, training, evaluation, export."""
