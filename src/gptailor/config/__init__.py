"""The config file `tailor.yaml`: its schema and the messages about its mistakes."""

from gptailor.config.schema import Config, load_config

__all__ = ["Config", "load_config"]
