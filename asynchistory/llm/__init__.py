"""LLM instances: the factory that makes each of them once, and the clients that it makes."""
