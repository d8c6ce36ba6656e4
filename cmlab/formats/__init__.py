"""Checkpoints: cmlab's own, OpenAI's, NVlabs' and diffusers'; nothing in a file is ever executed."""
