"""GGUF files of causal models, as llama.cpp's converter writes them, and the check that transformers reads the same model."""
